"""After the last step: decode and encode, one picture at a time, on a thread beside the one that steps."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping

import torch

from ldm_core import tasks
from ldm_core.model import LatentDiffusion
from worker.png import encode, parameters_of
from worker.request import EncodedImage, ImageRun

Stage = Callable[[str, float], None]
BACKLOG = 32  # pictures; with more than that the device waits, rather than hold ever more of them


class Finisher:
    """`done` is told of each picture: the bytes, or the exception that came instead."""

    def __init__(
        self,
        models: Mapping[str, LatentDiffusion],
        done: Callable[[ImageRun, EncodedImage | Exception], None],
        stage: Stage,
        png_metadata: bool,
    ) -> None:
        self._models, self._done, self._stage, self._png_metadata = models, done, stage, png_metadata
        self._queue: queue.Queue[ImageRun | None] = queue.Queue(BACKLOG)
        self._busy_since: float | None = None

    def put(self, run: ImageRun) -> None:
        """Hands over a picture that has done its last step."""
        self._queue.put(run)

    def hangs(self, limit_s: float) -> bool:
        """Whether one picture has taken longer than that."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > limit_s

    def close(self) -> None:
        """Ends `run` after what is in line."""
        self._queue.put(None)

    def run(self) -> None:
        """The thread's target."""
        while (run := self._queue.get()) is not None:
            self.finish(run)

    def finish(self, run: ImageRun) -> None:
        """Finishes one picture here and now."""
        self._busy_since = time.monotonic()
        try:
            result: EncodedImage | Exception = self._finish(run)
        except Exception as error:  # whatever it is, it is this picture's, and its job's, alone
            result = error
        finally:
            self._busy_since = None
        self._done(run, result)

    def _finish(self, run: ImageRun) -> EncodedImage:
        job, sample = run.request.job, run.sample
        assert sample is not None
        started = time.perf_counter()
        with torch.inference_mode():
            picture = tasks.finish(self._models[job.model], sample)
        decoded = time.perf_counter()
        parameters = parameters_of(job, run.index) if self._png_metadata else None
        data = encode(picture, job.format, parameters)
        self._stage("finish", decoded - started)
        self._stage("encode", time.perf_counter() - decoded)
        return EncodedImage(data, job.params.image_seed(run.index), *picture.size)
