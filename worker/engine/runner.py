"""Begins images and steps batches of them on the device. Uses no queue and no other thread."""

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
        with torch.inference_mode(), _progress_hooks(model.autoencoder.encoder, moved):
            sample = tasks.begin(model, request.params, run.index, request.inputs)
        if run.index in request.resumes:
            request.resumes[run.index].restore(sample)
        run.sample = sample

    def resume(self, request: Request) -> None:
        """Restores the checkpoint of an earlier execution where this worker would continue to the same bytes."""
        model, rows = self._of(request)
        saved = Checkpoint.from_bytes(request.checkpoint or b"", fingerprint(model, rows))
        if saved is not None:
            request.resumes, request.done = saved.samples, dict(saved.done)

    def save(self, request: Request) -> Saved:
        """The request's present state as an event."""
        checkpoint = Checkpoint.of(request, fingerprint(*self._of(request)))
        return Saved(request.key, request.step, checkpoint.to_bytes)

    def step(self, batch: Sequence[ImageRun], on_call: Callable[[int], None]) -> dict[Request, Exception]:
        """Makes one step of images that share a batch key. Returns the error of each request that failed.

        An error of a whole call is narrowed down by halving the batch. `on_call` is that of `denoise.step`.
        """
        model, rows = self._of(batch[0].request)
        try:
            finite = denoise.step(model, [run.sample for run in batch if run.sample is not None], rows, on_call)
        except Exception as error:
            if _device_is_lost(error):
                raise
            if len(batch) == 1:
                return {batch[0].request: _as_job_error(error, batch[0].request.payload)}
            half = len(batch) // 2
            return self.step(batch[:half], on_call) | self.step(batch[half:], on_call)
        return {
            run.request: NonFiniteLatents(f"The latents became infinite or not a number at step {run.step}.")
            for run, ok in zip(batch, finite, strict=True)
            if not ok
        }

    def _of(self, request: Request) -> tuple[LatentDiffusion, int]:
        model = request.payload.model
        return self._models[model], self._rows[model]


@contextmanager
def _progress_hooks(network: torch.nn.Module, moved: Callable[[], None]) -> Iterator[None]:
    """Calls `moved` after every submodule that has submodules of its own."""
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
    """Whether the process has to end: after most CUDA errors every later call fails too."""
    return "CUDA error" in str(error) and not isinstance(error, torch.OutOfMemoryError)
