"""What a GPU makes of the paper's networks, with random weights: images, steps and a start.

`images`: as many jobs as fill the rows of a call (with --rows 2, one), from noise to pixels by the engine's own steps,
their calls captured as graphs; one job alone in such calls; and whether it has the same latents there. `steps`: one
pass through a U-Net against diffusers', eager and compiled with max-autotune, and against the floor, its arithmetic at
the measured rate of a large product of matrices. `start`: a process of its own, from its begin to its first captured
call (weights are drawn on the device, not read). diffusers' compiling takes minutes a network and row count, so
--models and --rows name few at a time, and every line is a result by itself, in JSON.

    python -m benchmarks.gpu [--parts images steps start] [--models sd1-512] [--rows 16] [--eager] > results.txt

On a CPU, `--device cpu --dtype float32 --models scenes --rows 2 --eager --parts images steps` shows that it runs.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.networks import BUILTIN, DENOISERS, FIRST_STAGES, Denoiser, finish, matrix_rate, peer_of
from ldm_core import denoise, tasks
from ldm_core.acceleration.accelerate import accelerate
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import read_card
from ldm_core.networks.conditioning import Condition
from ldm_core.sampling.noise import NoiseSource
from ldm_core.sampling.sample import Sample
from ldm_core.sampling.samplers import make_plan
from ldm_core.sampling.schedule import NoiseSchedule

Pass = Callable[[], Tensor]
Module = TypeVar("Module", bound=nn.Module)
WARM = 3
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
CONTESTANTS = ("ours", "ours captured", "diffusers", "diffusers compiled")


@dataclass(frozen=True)
class Workload:
    """Images of a U-Net and a decoder; images/s asked of an H200, and those of the paper (tables 5 and 6, A100)."""

    stage: str
    steps: int
    guidance: float
    asked: float | None = None
    paper: float | None = None

    @property
    def rows(self) -> int:
        """Of one image."""
        return 1 if self.guidance == 1.0 else 2

    def seeds(self, rows: int) -> list[int]:
        """One for each image of a call of so many rows."""
        return [*range(max(1, rows // self.rows))]


WORKLOADS = {
    "sd1-512": Workload("kl-f8-512", 50, 7.5, asked=4.2),
    "superres-256": Workload("vq-f4-256", 100, 1.0, asked=40.0, paper=4.62),
    "inpainting-512": Workload("vq-f4-256", 50, 1.0, asked=5.0, paper=0.34),
    "scenes": Workload("scenes", 25, 4.0),
}


@dataclass(frozen=True)
class Device:
    name: str
    dtype: torch.dtype

    def network(self, build: Callable[[], Module]) -> Module:
        """With random weights, frozen, in channels-last memory."""
        with torch.device(self.name):
            network = build().to(self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval().requires_grad_(False)

    def peak_gib(self) -> float | None:
        """Memory that was in use at most."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.name.startswith("cuda") else None

    def timed(self, run: Callable[[], Any]) -> float:
        """Seconds, with the device's queue empty before and after."""
        finish(self.name)
        started = time.perf_counter()
        run()
        finish(self.name)
        return time.perf_counter() - started


def model_of(name: str, device: Device, *, eager: bool) -> LatentDiffusion:
    """A whole model of these networks, except that nothing makes its conditions."""
    workload = WORKLOADS[name]
    unet, stage = device.network(DENOISERS[name].build), device.network(FIRST_STAGES[workload.stage].build)
    if not eager:
        unet, stage = accelerate(unet), accelerate(stage)
    return LatentDiffusion(
        card=replace(read_card(BUILTIN / "scenes"), tile=0), unet=unet, autoencoder=stage, condition=Condition(),
        schedule=NoiseSchedule.from_config(SCHEDULE), low_res_schedule=None, device=torch.device(device.name),
        dtype=device.dtype,
    )  # fmt: skip


@torch.inference_mode()
def sample(model: LatentDiffusion, name: str, seed: int) -> Sample:
    """A job at its first step; where a condition would be, there is noise."""
    denoiser, workload = DENOISERS[name], WORKLOADS[name]
    channels, side = model.autoencoder.config.latent_channels, denoiser.side
    noise = NoiseSource(seed)
    width, behind = denoiser.config.cross_attention_dim, denoiser.config.in_channels - channels
    pixels = side * model.autoencoder.config.factor
    return Sample(
        x=noise.draw((1, channels, side, side), model.device),
        plan=make_plan(model.schedule, "ddim", workload.steps),
        noise=noise,
        size=(pixels, pixels),
        context=None if width is None else noise.draw((workload.rows, denoiser.tokens, width), model.device),
        guidance_scale=workload.guidance,
        concat=noise.draw((1, behind, side, side), model.device) if behind else None,
    )


@torch.inference_mode()
def made(model: LatentDiffusion, name: str, seeds: list[int], rows: int) -> list[Tensor]:
    """The last latents of jobs that run together; their images are made too."""
    samples = [sample(model, name, seed) for seed in seeds]
    while not samples[0].done:
        denoise.step(model, samples, rows)
    for each in samples:
        tasks.finish(model, each)
    return [each.x for each in samples]


def images(name: str, rows: int, device: Device, *, eager: bool) -> dict[str, Any]:
    """Calls that are full of jobs, and one job alone in calls of as many rows."""
    workload = WORKLOADS[name]
    model = model_of(name, device, eager=eager)
    seeds = workload.seeds(rows)
    preparing = device.timed(lambda: [made(model, name, seeds, rows) for _ in range(2)])  # until calls are captured
    together = made(model, name, seeds, rows)
    seconds = statistics.median(device.timed(lambda: made(model, name, seeds, rows)) for _ in range(3))
    alone = made(model, name, seeds[-1:], rows)
    lone = device.timed(lambda: made(model, name, seeds[:1], rows))
    same = bool(alone[0].isfinite().all()) and torch.equal(alone[0], together[-1])
    return {
        "part": "images", "model": name, "rows": rows, "captured": not eager, "steps": workload.steps,
        "prepare_s": preparing, "images_s": len(seeds) / seconds, "asked": workload.asked, "paper": workload.paper,
        "lone_s": lone, "same_latents_alone": same, "peak_gib": device.peak_gib(),
    }  # fmt: skip


def passes(denoiser: Denoiser, rows: int, device: Device) -> dict[str, Pass]:
    """One step, by contestant, on the same weights in channels-last memory."""
    ours = device.network(denoiser.build)
    x, t, context = (None if part is None else part.to(device.name) for part in denoiser.inputs(rows, device.dtype))
    assert x is not None
    given: list[Any] = [x.to(memory_format=torch.channels_last), t, *([] if context is None else [context])]
    peer, captured = peer_of(ours), accelerate(copy.deepcopy(ours))
    their = torch.compile(peer, mode="max-autotune", fullgraph=True)
    return {
        "ours": lambda: ours(*given),
        "ours captured": lambda: captured(*given),
        "diffusers": lambda: peer(*given, return_dict=False)[0],
        "diffusers compiled": lambda: their(*given, return_dict=False)[0],
    }


def report(result: dict[str, Any]) -> None:
    """A result by itself: what has been measured stays when time runs out."""
    print(json.dumps(result), flush=True)


def steps(name: str, rows: int, device: Device, contestants: list[str], rounds: int, rate: float) -> None:
    """Milliseconds of each, and the share of the floor."""
    gflop = rows * DENOISERS[name].gflop()
    passed = passes(DENOISERS[name], rows, device)
    for label in contestants:
        with torch.inference_mode():
            preparing = device.timed(passed[label])
            for _ in range(WARM):
                passed[label]()
            seconds = statistics.median(device.timed(passed[label]) for _ in range(rounds))
        found = {"ms": 1e3 * seconds, "floor": gflop / rate / seconds, "prepare_s": preparing}
        report({"part": "steps", "model": name, "rows": rows, "label": label, **found})


def first_call(name: str, rows: int, device: Device) -> None:
    """What a worker does before it takes jobs. It is imported and called in a new process."""
    model = model_of(name, device, eager=False)
    with torch.inference_mode():
        denoise.step(model, [sample(model, name, seed) for seed in WORKLOADS[name].seeds(rows)], rows)


def start(name: str, rows: int, device: Device) -> dict[str, Any]:
    """Seconds of a process from its begin to its end, which comes after the first call."""
    code = (
        "import torch; from benchmarks.gpu import Device, first_call; "
        f"first_call({name!r}, {rows}, Device({device.name!r}, {device.dtype}))"
    )
    seconds = device.timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    return {"part": "start", "model": name, "rows": rows, "seconds": seconds, "asked": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=("images", "steps", "start"), default=["images", "start", "steps"]
    )
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=["sd1-512"])
    parser.add_argument("--rows", nargs="+", type=int, default=[16])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    device = Device(args.device, getattr(torch, args.dtype))
    on_gpu = args.device.startswith("cuda")
    rate = matrix_rate(device.dtype, args.device, side=8192 if on_gpu else 2048)
    name = torch.cuda.get_device_name(args.device) if on_gpu else "cpu"
    report({"device": name, "dtype": args.dtype, "gflops": rate, "torch": torch.__version__})
    contestants = [label for label in args.contestants if not args.eager or label in {"ours", "diffusers"}]
    for part in args.parts:
        for model, rows in ((model, rows) for model in args.models for rows in args.rows):
            if part == "images":
                report(images(model, rows, device, eager=args.eager))
            elif part == "start":
                report(start(model, rows, device))
            else:
                steps(model, rows, device, contestants, args.rounds, rate)
            torch.compiler.reset()
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
