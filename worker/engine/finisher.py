"""After the last step: decode and encode, one image at a time, on a thread beside the one that steps.

Owners take turns: one owner's many images hold up another's by one.

Between them previews, where somebody looks: only while nothing finished waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ldm_core import tasks
from ldm_core.model import LatentDiffusion
from ldm_core.sampling.sample import Sample
from worker.engine.encode import encode, encode_preview, parameters_of
from worker.engine.openmp import run_in_thread
from worker.engine.owner_queue import OwnerQueue
from worker.engine.request import EncodedImage, ImageRun

log = logging.getLogger(__name__)

T = TypeVar("T")
Stage = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class PreviewJob:
    """An image as it is foreseen in the middle of its steps."""

    key: str
    model: str
    x0: Tensor


class Finisher:
    """`done` is told of each image: the bytes, or the exception that came instead, and the seconds it took; `show` of
    previews.

    `progress` is called after every decoded window of an image.
    """

    def __init__(
        self,
        models: Mapping[str, LatentDiffusion],
        done: Callable[[ImageRun, EncodedImage | Exception, float], None],
        show: Callable[[str, bytes], None],
        stage: Stage,
        png_metadata: bool,
        progress: Callable[[], None],
    ) -> None:
        self._models, self._done, self._show, self._stage = models, done, show, stage
        self._png_metadata, self._progress = png_metadata, progress
        self._queue: OwnerQueue[ImageRun | PreviewJob] = OwnerQueue()
        self._busy_since: float | None = None

    def put(self, run: ImageRun) -> None:
        """Hands over an image that has done its last step."""
        self._queue.put(run.request.payload.owner, run)

    def preview(self, run: ImageRun) -> bool:
        """Makes a preview of an image under way, unless there is something else to do; whether it will."""
        if run.sample is None or run.sample.x0 is None or run.sample.done or not self._queue.empty():
            return False
        payload = run.request.payload
        self._queue.put(payload.owner, PreviewJob(run.request.key, payload.model, run.sample.x0))
        return True

    def hangs(self, limit_s: float) -> bool:
        """Whether one image, or window of one, has taken longer than that."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > limit_s

    def close(self) -> None:
        """Ends `run` after what is in line."""
        self._queue.close()

    def run(self) -> None:
        """The thread's target."""
        while (work := self._queue.get()) is not None:
            self.do(work)

    def do(self, work: ImageRun | PreviewJob) -> None:
        """Finishes one image here and now, or makes a preview."""
        self._busy_since = time.monotonic()
        try:
            self._preview(work) if isinstance(work, PreviewJob) else self._finish(work)
        finally:
            self._busy_since = None

    def _preview(self, preview_job: PreviewJob) -> None:
        try:
            image = _beside_the_steps(_previewed, self._models[preview_job.model], preview_job.x0)
            self._show(preview_job.key, encode_preview(image))
        except Exception:  # the image itself is what counts
            log.warning("no preview of job %s", preview_job.key, exc_info=True)

    def _finish(self, run: ImageRun) -> None:
        started = time.perf_counter()
        try:
            result: EncodedImage | Exception = self._encoded(run)
        except Exception as error:  # whatever it is, it is this image's, and its job's, alone
            result = error
        self._done(run, result, time.perf_counter() - started)

    def _encoded(self, run: ImageRun) -> EncodedImage:
        payload, sample = run.request.payload, run.sample
        assert sample is not None
        started = time.perf_counter()
        image = _beside_the_steps(self._decoded, self._models[payload.model], sample)
        decoded = time.perf_counter()
        parameters = parameters_of(payload, run.index) if self._png_metadata else None
        data = encode(image, payload.format, parameters)
        self._stage("finish", decoded - started)
        self._stage("encode", time.perf_counter() - decoded)
        return EncodedImage(data, payload.params.image_seed(run.index), *image.size)

    @torch.inference_mode()
    def _decoded(self, model: LatentDiffusion, sample: Sample) -> Image.Image:
        return tasks.finish(model, sample, self._moved)

    def _moved(self) -> None:
        self._busy_since = time.monotonic()
        self._progress()


def _beside_the_steps(work: Callable[[LatentDiffusion, T], Image.Image], model: LatentDiffusion, of: T) -> Image.Image:
    """In a thread of its own where that would keep a pool of helpers: on a CPU of which more than one is used."""
    if model.device.type == "cpu" and torch.get_num_threads() > 1:
        return run_in_thread(lambda: work(model, of))
    return work(model, of)


@torch.inference_mode()
def _previewed(model: LatentDiffusion, x0: Tensor) -> Image.Image:
    return tasks.preview(model, x0)
