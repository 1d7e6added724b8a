"""What everything else was measured on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.workloads import Bench, Result
from benchmarks.networks import matrix_rate
from ldm_core.acceleration.accelerate import fingerprint
from ldm_core.release import release

COPIED = 2**32  # bytes


def described(bench: Bench) -> str:
    """The device, its dtype and all versions on which bits depend: stands in every line."""
    triton = f", Triton {_version('triton')}" if bench.on_gpu else ""
    dtype = str(bench.dtype).removeprefix("torch.")
    return f"{bench.device.type}, {dtype}, torch {torch.__version__}{triton}, {fingerprint(bench.device)}"


def measure(bench: Bench) -> Iterator[Result]:
    """Versions, and the two limits of the device: its products of matrices, its memory."""
    yield {
        "release": release(), "python": platform.python_version(), "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("torch", "triton", "diffusers")},
        "tflops": round(rate(bench) / 1e3, 3), **(_of_gpu(bench) if bench.on_gpu else {}),
    }  # fmt: skip


def rate(bench: Bench) -> float:
    """GFLOP/s of a large product of matrices."""
    return matrix_rate(bench.dtype, str(bench.device), side=8192 if bench.on_gpu else 1024)


def _of_gpu(bench: Bench) -> Result:
    properties = torch.cuda.get_device_properties(bench.device)
    block = torch.empty(COPIED, dtype=torch.uint8, device=bench.device)
    other = torch.empty_like(block)
    other.copy_(block)
    seconds = bench.seconds(lambda: [other.copy_(block) for _ in range(10)]) / 10
    return {
        "card": properties.name, "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count, "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "terabytes_s": round(2 * COPIED / seconds / 1e12, 3),
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
