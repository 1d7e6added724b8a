"""Milliseconds of a step: ours, as a worker makes it, against diffusers' U-Net, on the same weights, in turns.

Ours is the whole step (gather, U-Net, guide, update, flags), diffusers' is its U-Net's call alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.environment import rate
from benchmarks.gpu.workloads import Bench, Result, milliseconds, model_of, ratio, samples_of
from benchmarks.networks import DENOISERS, peer_of
from ldm_core.denoise import Denoiser
from ldm_core.model import LatentDiffusion

Run = Callable[[], object]
BURST = 4  # steps between two looks at the clock: the host runs ahead of the device by one
WARM = 3


def measure(bench: Bench, name: str) -> Iterator[Result]:
    """A step of each number of rows, captured and eager, beside diffusers' eager call."""
    model, peer = model_and_peer(name, bench)
    captured = Denoiser(model, model.default_rows(), model.capture)
    eager = Denoiser(model, model.default_rows()) if bench.on_gpu else None  # a CPU captures nothing
    gflops = rate(bench)
    for rows in bench.rows:
        runs = {"ours": _bursts(captured, model, rows), "diffusers": _calls(peer, bench, name, rows)}
        if eager is not None:
            runs["ours eager"] = _bursts(eager, model, rows)
        times = timed(bench, runs)
        found: Result = {"rows": rows, "ms": milliseconds(times), "x_diffusers": ratio(times, "diffusers", "ours")}
        found["floor"] = rows * DENOISERS[name].gflop() / gflops / found["ms"]["ours"] * 1e3
        if eager is None:
            yield {**found, "needs_cuda": "ours eager: a CPU's steps are not captured"}
        else:
            yield {**found, "x_eager": ratio(times, "ours eager", "ours")}


def measure_compiled(bench: Bench, name: str) -> Iterator[Result]:
    """A step beside diffusers' call as torch.compile makes it. Compiling takes a minute for each number of rows."""
    model, peer = model_and_peer(name, bench)
    ours = Denoiser(model, model.default_rows(), model.capture)
    for rows in bench.compiled_rows:
        torch.compiler.reset()
        compiled = torch.compile(peer, mode=bench.compile_mode, fullgraph=True, dynamic=False)
        theirs = _calls(compiled, bench, name, rows)
        with torch.inference_mode():
            prepare_s = bench.seconds(theirs)
        times = timed(bench, {"ours": _bursts(ours, model, rows), "diffusers compiled": theirs})
        yield {
            "rows": rows, "mode": bench.compile_mode, "prepare_s": round(prepare_s, 1), "ms": milliseconds(times),
            "x_compiled": ratio(times, "diffusers compiled", "ours"),
        }  # fmt: skip


def model_and_peer(name: str, bench: Bench) -> tuple[LatentDiffusion, Any]:
    """Ours, and diffusers' U-Net with the same weights in channels-last memory."""
    unet = bench.network(DENOISERS[name].build)
    peer = peer_of(unet).to(memory_format=torch.channels_last)  # before ours is laid out as the service does
    return model_of(name, bench, unet), peer


def timed(bench: Bench, runs: dict[str, Run]) -> dict[str, list[float]]:
    """Seconds of one step each, by round."""
    with torch.inference_mode(), bench.stream():
        for run in runs.values():
            for _ in range(WARM):
                run()
        times = bench.in_turns(runs)
    return {label: [each / BURST for each in seconds] for label, seconds in times.items()}


def _bursts(denoiser: Denoiser, model: LatentDiffusion, rows: int) -> Run:
    samples = samples_of(model, rows)
    return lambda: [denoiser.step(samples) for _ in range(BURST)]


def _calls(peer: Any, bench: Bench, name: str, rows: int) -> Run:
    x, t, context = (
        None if part is None else part.to(bench.device) for part in DENOISERS[name].inputs(rows, bench.dtype)
    )
    assert x is not None
    given: list[Any] = [x.to(memory_format=torch.channels_last), t, *([] if context is None else [context])]
    return lambda: [peer(*given, return_dict=False) for _ in range(BURST)]
