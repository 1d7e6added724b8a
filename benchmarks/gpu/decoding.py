"""The decoder: its own time against diffusers', and what it takes of steps that go on beside it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

from benchmarks.gpu.workloads import Bench, Result, first_stage_of, milliseconds, model_of, ratio, samples_of
from benchmarks.networks import peer_of
from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.device import beside_steps
from ldm_core.model import LatentDiffusion
from ldm_core.sampling.sample import Sample

WARM = 3  # the second call of a shape is captured, the third replayed
STEPS_ON_GPU, STEPS_ON_CPU = 200, 20  # that p99 is taken of


def measure(bench: Bench, name: str) -> Iterator[Result]:
    """One image's latents to levels, ours and diffusers' in turns; and to an 8-bit image in main memory."""
    stage = first_stage_of(name)
    peer: Any = peer_of(bench.network(stage.build)).to(memory_format=torch.channels_last)
    model = model_of(name, bench)
    (sample,) = samples_of(model, rows=1)
    z = sample.x.to(bench.dtype) / stage.config.scaling_factor
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: model.decode(sample.x),
        "diffusers": lambda: peer.decode(z, return_dict=False)[0],
        "ours to 8 bits": lambda: tasks.finish(model, sample),
    }
    with torch.inference_mode(), bench.stream():
        for run in runs.values():
            for _ in range(WARM):
                run()
        times = bench.in_turns(runs)
    yield {"ms": milliseconds(times), "x_diffusers": ratio(times, "diffusers", "ours")}


def measure_p99(bench: Bench, name: str) -> Iterator[Result]:
    """Milliseconds between the ends of steps, without decodes and with one after the other on their own stream."""
    model = model_of(name, bench)
    denoiser = Denoiser(model, model.default_rows(), model.capture)
    samples, (finished,) = samples_of(model, bench.full), samples_of(model, rows=1)
    count = STEPS_ON_GPU if bench.on_gpu else STEPS_ON_CPU
    for _ in range(WARM):
        _finish(model, finished)
    with torch.inference_mode(), bench.stream():
        _times(denoiser, samples, WARM)
        alone = _times(denoiser, samples, count)
        began = time.perf_counter()
        with _decoding(model, finished) as decodes:
            beside = _times(denoiser, samples, count)
            decodes_s = len(decodes) / (time.perf_counter() - began)
    yield {
        "rows": bench.full, "steps": count, "alone_ms": _quantiles(alone), "beside_decodes_ms": _quantiles(beside),
        "decodes_s": round(decodes_s, 2),
    }  # fmt: skip


def _times(denoiser: Denoiser, samples: list[Sample], count: int) -> list[float]:
    """Seconds of each of `count` steps. On a GPU a step returns when the one before it has ended."""
    ends = [time.perf_counter()]
    for _ in range(count):
        denoiser.step(samples)
        ends.append(time.perf_counter())
    return [end - start for start, end in pairwise(ends)]


def _quantiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(1e3 * cuts[49], 3), "p99": round(1e3 * cuts[98], 3)}


@contextmanager
def _decoding(model: LatentDiffusion, sample: Sample) -> Iterator[list[float]]:
    """Decodes all the time the block runs, as a worker's finisher does. Gives the times at which decodes ended."""
    stop, ends, errors = threading.Event(), list[float](), list[Exception]()

    def run() -> None:
        try:
            while not stop.is_set():
                _finish(model, sample)
                ends.append(time.perf_counter())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ends
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


@torch.inference_mode()
def _finish(model: LatentDiffusion, sample: Sample) -> None:
    with beside_steps(model.device):
        tasks.finish(model, sample)
