"""Where the time of a step goes: the kernels of one step that is replayed, by kind, and what the host launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.workloads import Bench, Result, model_of, samples_of
from ldm_core.denoise import Denoiser
from ldm_core.sampling.sample import Sample

WARM = 3
SHOWN = 20  # kernels that get a line of their own
KINDS = {  # by words in a kernel's name; the first kind with one of them
    "norms of ours": ("group_norm_in_registers", "partial_statistics", "normalise", "layer_norm"),
    "other kernels of ours": ("geglu", "add_bias"),
    "attention": ("fmha", "flash", "sdpa", "attention"),
    "convolutions": ("conv", "fprop", "implicit", "xmma", "cudnn"),
    "products": ("gemm", "nvjet", "cutlass", "splitk", "cublas"),
    "copies": ("nchw", "nhwc", "copy", "transpose", "cat", "memcpy", "memset", "gather", "index"),
}
LAUNCHES = ("launch", "memcpy", "memset")  # in the names of calls of CUDA's runtime and driver


def measure(bench: Bench, name: str) -> Iterator[Result]:
    """A busy step and the smallest one."""
    if not bench.on_gpu:
        yield {"needs_cuda": "the profiler sees kernels on CUDA alone"}
        return
    model = model_of(name, bench)
    denoiser = Denoiser(model, model.default_rows(), model.capture)
    for rows in sorted({min(bench.rows), bench.full}):
        yield from _of_step(bench, denoiser, samples_of(model, rows), rows)


def _of_step(bench: Bench, denoiser: Denoiser, samples: list[Sample], rows: int) -> Iterator[Result]:
    microseconds, calls, launched = _profiled(bench, denoiser, samples)
    kinds: Counter[str] = Counter()
    for kernel, time in microseconds.items():
        kinds[_kind(kernel)] += time
    total = kinds.total()
    yield {
        "rows": rows, "kernels": calls.total(), "ms": total / 1e3, "launched_by_host": dict(launched),
        "share": {kind: round(time / total, 4) for kind, time in kinds.most_common()},
    }  # fmt: skip
    for kernel, time in microseconds.most_common(SHOWN):
        yield {"rows": rows, "kernel": kernel[:140], "kind": _kind(kernel), "us": time, "times": calls[kernel]}


def _profiled(
    bench: Bench, denoiser: Denoiser, samples: list[Sample]
) -> tuple[Counter[str], Counter[str], Counter[str]]:  # fmt: skip
    """By kernel of one step, its microseconds and its calls; and by call of CUDA's, how often the host made it."""
    with torch.inference_mode(), bench.stream():
        for _ in range(WARM):
            denoiser.step(samples)
        bench.finish()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            denoiser.step(samples)
            bench.finish()
    microseconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    launched: Counter[str] = Counter()
    events: Any = seen.events()
    for event in events:
        if event.device_type == DeviceType.CUDA:
            microseconds[event.name] += event.device_time_total
            calls[event.name] += 1
        elif event.name.startswith("cu") and any(word in event.name.lower() for word in LAUNCHES):
            launched[event.name] += 1
    if not calls:
        raise RuntimeError("the profiler has seen no kernel")
    return microseconds, calls, launched


def _kind(kernel: str) -> str:
    lower = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "elementwise")
