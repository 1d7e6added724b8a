"""Decodes and encodes finished images, one at a time, on a thread beside the device's.

Owners take turns, so one owner's many images delay another's by one image. Previews are made only while no finished
image waits.
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
from ldm_core.device import beside_steps
from ldm_core.device_errors import raise_if_lost
from ldm_core.model import LatentDiffusion
from ldm_core.sampling.sample import Sample
from worker.engine.encode import Encoder, encode_preview
from worker.engine.owner_queue import OwnerQueue
from worker.engine.request import EncodedImage, ImageRun
from worker.engine.run_in_thread import run_in_thread

log = logging.getLogger(__name__)

T = TypeVar("T")
Stage = Callable[[str, float], None]
Result = EncodedImage | Image.Image | Exception


@dataclass(frozen=True, slots=True)
class PreviewJob:
    """A preview of an image from the x₀ that its last step predicted."""

    key: str
    model: str
    x0: Tensor


class Finisher:
    """Calls `done` with the seconds that an image took and its bytes, or the exception in their place.

    After a pass that is not the last, the image itself is in the place of its bytes. Calls `show` with each preview
    and the seconds that it took, and `progress` after every decoded window of an image.
    """

    def __init__(
        self,
        models: Mapping[str, LatentDiffusion],
        done: Callable[[ImageRun, Result, float], None],
        show: Callable[[str, bytes, float], None],
        stage: Stage,
        encoder: Encoder,
        progress: Callable[[], None],
    ) -> None:
        self._models, self._done, self._show, self._stage = models, done, show, stage
        self._encoder, self._progress = encoder, progress
        self._queue: OwnerQueue[ImageRun | PreviewJob] = OwnerQueue()
        self._busy_since: float | None = None

    def put(self, run: ImageRun) -> None:
        """Queues an image after its last step."""
        self._queue.put(run.request.payload.owner, run)

    def preview(self, run: ImageRun) -> bool:
        """Queues a preview of a running image if the queue is empty. Returns whether a preview will be made."""
        if run.sample is None or run.sample.x0 is None or run.sample.done or not self._queue.empty():
            return False
        payload = run.request.payload
        self._queue.put(payload.owner, PreviewJob(run.request.key, run.model, run.sample.x0.clone()))
        return True

    def hangs(self, limit_s: float) -> bool:
        """Whether one window of an image has taken longer than `limit_s`."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > limit_s

    def close(self) -> None:
        """Ends `run` after the queued images."""
        self._queue.close()

    def run(self) -> None:
        """The thread's target. Raises DeviceLost."""
        while (work := self._queue.get()) is not None:
            self.do(work)

    def do(self, work: ImageRun | PreviewJob) -> None:
        """Finishes one image, or makes one preview, on the calling thread."""
        self._busy_since = time.monotonic()
        try:
            self._preview(work) if isinstance(work, PreviewJob) else self._finish(work)
        finally:
            self._busy_since = None

    def _preview(self, preview_job: PreviewJob) -> None:
        started = time.perf_counter()
        try:
            image = _beside_steps(_previewed, self._models[preview_job.model], preview_job.x0)
            self._show(preview_job.key, encode_preview(image), time.perf_counter() - started)
        except Exception as error:  # the image itself is what counts
            raise_if_lost(self._models[preview_job.model].device, error)
            log.warning("no preview of job %s", preview_job.key, exc_info=True)

    def _finish(self, run: ImageRun) -> None:
        started = time.perf_counter()
        try:
            result: Result = self._drawn(run)
        except Exception as error:
            raise_if_lost(self._models[run.model].device, error)
            result = error  # whatever it is, it is this image's, and its job's, alone
        self._done(run, result, time.perf_counter() - started)

    def _drawn(self, run: ImageRun) -> EncodedImage | Image.Image:
        assert run.sample is not None
        started = time.perf_counter()
        image = _beside_steps(self._decoded, self._models[run.model], run.sample)
        self._stage("finish", time.perf_counter() - started)
        return self._encoded(run, image) if run.is_in_last_pass else image

    def _encoded(self, run: ImageRun, image: Image.Image) -> EncodedImage:
        payload, started = run.request.payload, time.perf_counter()
        data = self._encoder(payload, run.index, image)
        self._stage("encode", time.perf_counter() - started)
        return EncodedImage(data, payload.params.image_seed(run.index), *image.size)

    @torch.inference_mode()
    def _decoded(self, model: LatentDiffusion, sample: Sample) -> Image.Image:
        return tasks.finish(model, sample, self._moved)

    def _moved(self) -> None:
        self._busy_since = time.monotonic()
        self._progress()


def _beside_steps(work: Callable[[LatentDiffusion, T], Image.Image], model: LatentDiffusion, of: T) -> Image.Image:
    """On a CPU runs `work` in a short-lived thread, so that its OpenMP threads end with it (run_in_thread.py)."""
    if model.device.type == "cpu" and torch.get_num_threads() > 1:
        return run_in_thread(lambda: work(model, of))
    with beside_steps(model.device):
        return work(model, of)


@torch.inference_mode()
def _previewed(model: LatentDiffusion, x0: Tensor) -> Image.Image:
    return tasks.preview(model, x0)
