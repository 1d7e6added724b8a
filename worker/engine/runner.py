"""Begins images and steps batches of them on the device. Uses no queue and no other thread."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.device_errors import is_out_of_memory, raise_if_lost
from ldm_core.errors import JobError, NonFiniteLatents, OutOfMemory
from ldm_core.images.decoding import Images
from ldm_core.job_warning import JobWarning
from ldm_core.model import LatentDiffusion
from worker.engine.checkpoint import Checkpoint, fingerprint
from worker.engine.request import ImageRun, Request, Saved
from worker.jobs import JobPayload

log = logging.getLogger(__name__)


class Runner:
    """`rows` is the number of rows of a U-Net call, by model id."""

    def __init__(self, models: Mapping[str, LatentDiffusion], rows: Mapping[str, int]) -> None:
        self._models, self._rows = models, rows
        self._denoisers = {name: Denoiser(model, rows[name], model.capture) for name, model in models.items()}

    def begin(self, run: ImageRun, moved: Callable[[], None]) -> None:
        """Begins the pass: text to context, image to latents, seed to noise. Raises RequestError, or what torch raises.

        Calls `moved` after every block of the encoder: over a large image all of them together may take minutes.
        """
        request = run.request
        model = self._models[run.model]
        if request.inputs is None:
            request.inputs = {name: _decoded(data) for name, data in request.encoded.items()}
        with torch.inference_mode(), _progress_hooks(model.autoencoder.encoder, moved):
            sample = tasks.begin(model, run.params, run.index, _inputs_of(run))
        if run.index in request.resumes:
            request.resumes[run.index].restore(sample)
        run.sample = sample

    def resume(self, request: Request) -> None:
        """Restores the checkpoint of an earlier execution where this worker would continue to the same bytes."""
        saved = Checkpoint.from_bytes(request.checkpoint or b"", self._place(request))
        if saved is not None:
            saved.restore(request)

    def save(self, request: Request) -> Saved:
        """The request's present state as an event."""
        checkpoint = Checkpoint.of(request, self._place(request))
        return Saved(request.key, request.step, checkpoint.to_bytes)

    def step(self, batch: Sequence[ImageRun], on_call: Callable[[int], None]) -> dict[Request, Exception]:
        """Makes one step of images that share a batch key. Returns the error of each request that failed.

        `on_call` is that of `Denoiser.step_group`. Raises DeviceLost.
        """
        denoiser = self._denoisers[batch[0].model]
        run_of = {run.sample: run for run in batch if run.sample is not None}
        failed: dict[Request, Exception] = {}
        for place, group in enumerate(denoiser.groups([*run_of])):
            failed |= self._step_group(denoiser, place, [run_of[sample] for sample in group], on_call)
        return failed

    def _step_group(
        self, denoiser: Denoiser, place: int, group: Sequence[ImageRun], on_call: Callable[[int], None]
    ) -> dict[Request, Exception]:  # fmt: skip
        """An error of a whole call is narrowed down by halving the group."""
        try:
            samples = [run.sample for run in group if run.sample is not None]
            finite = denoiser.step_group(place, samples, on_call)
        except Exception as error:
            raise_if_lost(self._models[group[0].model].device, error)
            if len(group) == 1:
                return {group[0].request: _as_job_error(error, group[0].request.payload)}
            half = len(group) // 2
            return self._step_group(denoiser, place, group[:half], on_call) | self._step_group(
                denoiser, place, group[half:], on_call
            )
        return {
            run.request: NonFiniteLatents(f"The latents became infinite or not a number at step {run.step}.")
            for run, ok in zip(group, finite, strict=True)
            if not ok
        }

    def warnings(self, request: Request) -> tuple[JobWarning, ...]:
        """What the networks of its passes could not take in, each once."""
        passes = request.payload.passes
        found = [self._models[each.model].condition.warnings(each.params) for each in passes]
        return tuple(dict.fromkeys(warning for warnings in found for warning in warnings))

    def _place(self, request: Request) -> str:
        """Where its bytes are the same: the fingerprints of all passes."""
        models = [each.model for each in request.payload.passes]
        return "; ".join(fingerprint(self._models[model], self._rows[model]) for model in models)


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


def _inputs_of(run: ImageRun) -> Images:
    """The job's images, or what the pass before has drawn."""
    return {"image": run.drawn[-1]} if run.drawn else run.request.inputs or {}


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _as_job_error(error: Exception, job: JobPayload) -> Exception:
    if is_out_of_memory(error):
        return OutOfMemory("The job does not fit into the device's memory, even alone.")
    log.error("a job could not be stepped", exc_info=error, extra={"job_id": job.id, "request_id": job.request_id})
    return JobError("The device refused the job; the worker's log has the cause.")
