"""The device side of a step: begins images and steps batches of them. Knows no queue and no other thread."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from ldm_core import denoise, tasks
from ldm_core.errors import JobError, NonFiniteLatents, OutOfMemory
from ldm_core.model import LatentDiffusion
from worker.engine.checkpoint import Checkpoint, fingerprint
from worker.engine.request import ImageRun, Request, Saved
from worker.jobs import JobPayload

log = logging.getLogger(__name__)


class Runner:
    """`rows` is the number of rows of a U-Net call, by model id."""

    def __init__(self, models: Mapping[str, LatentDiffusion], rows: Mapping[str, int]) -> None:
        self._models = models
        self._rows = rows

    def begin(self, run: ImageRun, moved: Callable[[], None]) -> None:
        """Text to context, image to latents, seed to noise. Raises RequestError, or what torch raises.

        Calls `moved` after every block of the encoder: over a large image all of them together may take minutes.
        """
        request = run.request
        model = self._models[request.payload.model]
        if request.inputs is None:
            request.inputs = {name: _decoded(data) for name, data in request.encoded.items()}
        with torch.inference_mode(), _telling(model.autoencoder.encoder, moved):
            sample = tasks.begin(model, request.params, run.index, request.inputs)
        if run.index in request.resumes:
            request.resumes[run.index].restore(sample)
        run.sample = sample

    def resume(self, request: Request) -> None:
        """Takes up what an execution before this one has left, if that can be gone on with here."""
        model, rows = self._of(request)
        saved = Checkpoint.from_bytes(request.checkpoint or b"", fingerprint(model, rows))
        if saved is not None:
            request.resumes, request.done = saved.samples, dict(saved.done)

    def save(self, request: Request) -> Saved:
        """The request as it is now."""
        checkpoint = Checkpoint.of(request, fingerprint(*self._of(request)))
        return Saved(request.key, request.step, checkpoint.to_bytes)

    def step(self, batch: Sequence[ImageRun], called: Callable[[int], None]) -> dict[Request, Exception]:
        """One step of a batch of one key. Returns the requests that failed, with why; their mates have stepped.

        An error of the whole call is narrowed down by halves to the images that cause it. `called`
        is that of `denoise.step`.
        """
        model, rows = self._of(batch[0].request)
        try:
            finite = denoise.step(model, [run.sample for run in batch if run.sample is not None], rows, called)
        except Exception as error:
            if _device_is_lost(error):
                raise
            if len(batch) == 1:
                return {batch[0].request: _as_job_error(error, batch[0].request.payload)}
            half = len(batch) // 2
            return self.step(batch[:half], called) | self.step(batch[half:], called)
        return {
            run.request: NonFiniteLatents(f"The latents became infinite or not a number at step {run.step}.")
            for run, ok in zip(batch, finite, strict=True)
            if not ok
        }

    def _of(self, request: Request) -> tuple[LatentDiffusion, int]:
        model = request.payload.model
        return self._models[model], self._rows[model]


@contextmanager
def _telling(network: torch.nn.Module, moved: Callable[[], None]) -> Iterator[None]:
    """Calls `moved` after every part of a network that has parts itself."""
    parts = [module for module in network.modules() if next(module.children(), None) is not None]
    hooks = [part.register_forward_hook(lambda *_: moved()) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _as_job_error(error: Exception, job: JobPayload) -> Exception:
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory("The job does not fit into the device's memory, even alone.")
    log.error("a job could not be stepped", exc_info=error, extra={"job_id": job.id, "request_id": job.request_id})
    return JobError("The device refused the job; the worker's log has the cause.")


def _device_is_lost(error: Exception) -> bool:
    """After most CUDA errors nothing works any more in this process: it must end and be started again."""
    return "CUDA error" in str(error) and not isinstance(error, torch.OutOfMemoryError)
