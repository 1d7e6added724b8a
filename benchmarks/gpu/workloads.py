"""The models that are measured, with random weights: their jobs, their parts, and the bench that they run on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.networks import DENOISERS, FIRST_STAGES, FirstStage, finish
from ldm_core.acceleration.accelerate import accelerate, capture_on
from ldm_core.card import ModelCard
from ldm_core.device import steps_first
from ldm_core.images.decoding import Images
from ldm_core.model import LatentDiffusion
from ldm_core.networks.conditioning import Condition
from ldm_core.networks.unet import UNet
from ldm_core.params import GenerationParams, Task
from ldm_core.sampling.noise import NoiseSource
from ldm_core.sampling.sample import Sample
from ldm_core.sampling.samplers import make_plan
from ldm_core.sampling.schedule import NoiseSchedule

Result = dict[str, Any]
Module = TypeVar("Module", bound=nn.Module)
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
ENDLESS = 1000  # steps of a job that does not end while its steps are timed


@dataclass(frozen=True)
class Workload:
    """Jobs of one kind: their first stage, task, steps and guidance. `scale` is of super-resolution."""

    stage: str
    task: Task
    steps: int
    guidance: float
    scale: int = 1

    @property
    def rows(self) -> int:
        """U-Net rows of one image."""
        return 1 if self.guidance == 1.0 else 2


WORKLOADS = {
    "sd1-512": Workload("kl-f8-512", "txt2img", 50, 7.5),
    "txt2img-256": Workload("kl-f8-256", "txt2img", 50, 7.5),
    "superres-256": Workload("vq-f4-256", "superres", 100, 1.0, scale=4),
    "inpainting-512": Workload("vq-f4-256", "inpaint", 50, 1.0),
    "scenes": Workload("scenes", "txt2img", 25, 4.0),
}


@dataclass(frozen=True)
class Bench:
    """A device with all that its measurements share: dtype, numbers of rows, and how many rounds are timed."""

    device: torch.device
    dtype: torch.dtype
    rows: tuple[int, ...]
    rounds: int
    compiled_rows: tuple[int, ...] = (16,)
    compile_mode: str = "reduce-overhead"

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def full(self) -> int:
        """Rows of a busy step: 16, or what comes next below."""
        return max((rows for rows in self.rows if rows <= 16), default=min(self.rows))

    def network(self, build: Callable[[], Module]) -> Module:
        """With random weights, frozen, in channels-last memory."""
        torch.manual_seed(0)
        with self.device:
            network = build().to(self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval().requires_grad_(False)

    def stream(self) -> AbstractContextManager[None]:
        """A block on the stream on which a worker steps."""
        return steps_first(self.device) if self.on_gpu else nullcontext()

    def finish(self) -> None:
        """Waits until the device has nothing left to do."""
        finish(str(self.device))

    def seconds(self, run: Callable[[], object]) -> float:
        """How long `run` takes, with the device's queue empty before and after."""
        self.finish()
        started = time.perf_counter()
        run()
        self.finish()
        return time.perf_counter() - started

    def in_turns(self, runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Seconds of each by round. They take turns, so that what slows the machine down slows all of them."""
        times: dict[str, list[float]] = {label: [] for label in runs}
        for _ in range(self.rounds):
            for label, run in runs.items():
                times[label].append(self.seconds(run))
        return times


def ratio(times: Mapping[str, list[float]], other: str, own: str) -> float:
    """How many times as long as `own` the `other` takes, as the median over the rounds."""
    return statistics.median(a / b for a, b in zip(times[other], times[own], strict=True))


def milliseconds(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {label: round(1e3 * statistics.median(seconds), 3) for label, seconds in times.items()}


class RandomText(Condition):
    """Stands for a text encoder: every prompt is the same random context."""

    def __init__(self, tokens: int, width: int, device: torch.device) -> None:
        super().__init__()
        self._contexts = NoiseSource(1).draw((2, tokens, width), device)

    def context(self, params: GenerationParams, images: Images) -> Tensor:
        return self._contexts[1:]

    def unconditional(self, params: GenerationParams, context: Tensor) -> Tensor:
        return self._contexts[:1]


def first_stage_of(name: str) -> FirstStage:
    """The autoencoder of a model, at the size of its latents."""
    return replace(FIRST_STAGES[WORKLOADS[name].stage], side=DENOISERS[name].side)


def card_of(name: str) -> ModelCard:
    """What the worker knows of a model."""
    workload, denoiser = WORKLOADS[name], DENOISERS[name]
    factor = 2 ** (len(first_stage_of(name).config.block_out_channels) - 1)
    side, guided = denoiser.side * factor, workload.guidance > 1
    return ModelCard(
        id=name, tasks=(workload.task,), native_size=(side, side), max_pixels=side * side, scale=workload.scale,
        size_multiple=factor * 2 ** (len(denoiser.config.block_out_channels) - 1), default_steps=workload.steps,
        default_guidance_scale=workload.guidance, guidance=guided, text=denoiser.config.cross_attention_dim is not None,
    )  # fmt: skip


def model_of(name: str, bench: Bench, unet: UNet | None = None) -> LatentDiffusion:
    """A whole model as loading gives it, but for its weights and its text encoder, which are random.

    `unet` is the model's, in channels-last memory and not accelerated so far.
    """
    denoiser = DENOISERS[name]
    width = denoiser.config.cross_attention_dim
    return LatentDiffusion(
        card=card_of(name),
        unet=accelerate(bench.network(denoiser.build) if unet is None else unet),
        autoencoder=accelerate(bench.network(first_stage_of(name).build)),
        condition=Condition() if width is None else RandomText(denoiser.tokens, width, bench.device),
        schedule=NoiseSchedule.from_config(SCHEDULE), low_res_schedule=None, device=bench.device, dtype=bench.dtype,
        capture=capture_on(bench.device),
    )  # fmt: skip


@torch.inference_mode()
def samples_of(model: LatentDiffusion, rows: int, steps: int = ENDLESS) -> list[Sample]:
    """Jobs of `rows` rows together; one row of a guided model is a job without guidance."""
    of_one = min(rows, WORKLOADS[model.card.id].rows)
    return [_sample(model, seed, of_one, steps) for seed in range(rows // of_one)]


def _sample(model: LatentDiffusion, seed: int, rows: int, steps: int) -> Sample:
    """A job before its first step; where an image would stand behind its latents, there is noise."""
    denoiser, noise = DENOISERS[model.card.id], NoiseSource(seed)
    channels, side = model.autoencoder.config.latent_channels, denoiser.side
    width, behind = denoiser.config.cross_attention_dim, denoiser.config.in_channels - channels
    return Sample(
        x=noise.draw((1, channels, side, side), model.device),
        plan=make_plan(model.schedule, "ddim", steps),
        noise=noise,
        size=model.card.native_size,
        context=None if width is None else noise.draw((rows, denoiser.tokens, width), model.device),
        guidance_scale=1.0 if rows == 1 else WORKLOADS[model.card.id].guidance,
        concat=noise.draw((1, behind, side, side), model.device) if behind else None,
    )
