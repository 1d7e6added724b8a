"""One pass through a network: ours against diffusers', on the same weights and inputs, in turns in one process.

U-Nets for one denoising step, and first stages that decode; with random weights. Against diffusers' default (float32),
its bfloat16 and, with --best, its documented best for CPUs (bfloat16, channels_last, fused QKV, torch.compile with
max-autotune; compiling takes minutes). Speeds are medians of ratios to diffusers' default in the same round. "floor" is
the share of torch's matrix rate in that dtype, with all the arithmetic of plain convolutions; ours leave some of it out
and may multiply faster. "deviation" is the largest from diffusers' default. The last line is JSON.

    python -m benchmarks.step [--models scenes sd1-256] [--decode scenes] [--rows 2 8] [--rounds 15] [--best]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import DENOISERS, FIRST_STAGES, matrix_rate, peer_of
from ldm_core.acceleration.accelerate import accelerate

Pass = Callable[[], Tensor]
BASE, BEST = "diffusers float32", "diffusers at its best"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def unet_passes(name: str, rows: int, best: bool) -> dict[str, Pass]:
    """One denoising step, by contestant. Both have the same weights in memory."""
    denoiser = DENOISERS[name]
    ours = denoiser.build()
    passes: dict[str, Pass] = {}
    for label, dtype in DTYPES.items():
        unet = copy.deepcopy(ours).to(dtype)
        peer = peer_of(unet)  # before ours is laid out as the service does, which it must not gain from
        accelerate(unet)
        x, t, context = denoiser.inputs(rows, dtype)
        known = (x, t) if context is None else (x, t, context)
        passes[f"diffusers {label}"] = lambda peer=peer, known=known: peer(*known, return_dict=False)[0]  # type: ignore[misc]
        passes[f"ours {label}"] = lambda unet=unet, known=known: unet(*known)  # type: ignore[misc]
        if best and dtype == torch.bfloat16:
            passes[BEST] = _best(peer, known)
    return passes


def _best(peer: Any, known: tuple[Tensor, ...]) -> Pass:
    peer = copy.deepcopy(peer).to(memory_format=torch.channels_last)
    peer.fuse_qkv_projections()
    compiled = torch.compile(peer, mode="max-autotune", fullgraph=True)
    laid_out = known[0].to(memory_format=torch.channels_last), *known[1:]
    return lambda: compiled(*laid_out, return_dict=False)[0]


def decode_passes(name: str, rows: int) -> dict[str, Pass]:
    """Latents to images, by contestant."""
    stage = FIRST_STAGES[name]
    ours = stage.build()
    passes: dict[str, Pass] = {}
    for label, dtype in DTYPES.items():
        vae = copy.deepcopy(ours).to(dtype)
        peer = peer_of(vae)
        accelerate(vae)
        z = stage.inputs(rows, dtype)
        unscaled = z / stage.config.scaling_factor
        passes[f"diffusers {label}"] = lambda peer=peer, z=unscaled: peer.decode(z, return_dict=False)[0]  # type: ignore[misc]
        passes[f"ours {label}"] = lambda vae=vae, z=z: vae.decode(z)  # type: ignore[misc]
    return passes


def compare(passes: dict[str, Pass], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds, speed and deviation of each."""
    times: dict[str, list[float]] = {label: [] for label in passes}
    with torch.inference_mode():
        reference = passes[BASE]()
        deviation = {}
        for label, run in passes.items():
            run()
            deviation[label] = float((run().float() - reference).abs().max())
        for _ in range(rounds):
            for label, run in passes.items():
                started = time.perf_counter()
                run()
                times[label].append(time.perf_counter() - started)

    def speed(label: str, against: str) -> float:
        return statistics.median(other / own for other, own in zip(times[against], times[label], strict=True))

    return {
        label: {
            "ms": 1e3 * statistics.median(seconds),
            "x": speed(label, BASE),
            "deviation": deviation[label],
            **({"x_best": speed(label, BEST)} if BEST in passes else {}),
        }
        for label, seconds in times.items()
    }


def cpu_name() -> str:
    """As Linux calls it, with what matters here of its instructions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return f"{name} ({', '.join(flag for flag in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if flag in flags)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=DENOISERS, default=["scenes", "sd1-256"])
    parser.add_argument("--decode", nargs="*", choices=FIRST_STAGES, default=["scenes"])
    parser.add_argument("--rows", nargs="+", type=int, default=[2, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--best", action="store_true")
    args = parser.parse_args()
    rates = {label: matrix_rate(dtype) for label, dtype in DTYPES.items()}
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("matrix rate, GFLOP/s: " + ", ".join(f"{rate:.0f} in {label}" for label, rate in rates.items()))
    results = []
    todo = [(name, rows, "step") for name in args.models for rows in args.rows]
    for name, rows, kind in [*todo, *((name, 1, "decode") for name in args.decode)]:
        step = kind == "step"
        gflop = rows * (DENOISERS[name] if step else FIRST_STAGES[name]).gflop()
        passes = unet_passes(name, rows, args.best) if step else decode_passes(name, rows)
        print(f"{name}, {kind}, {rows} rows, {gflop:.1f} GFLOP")
        for label, row in compare(passes, args.rounds).items():
            dtype = "float32" if "float32" in label else "bfloat16"
            row["floor"] = gflop / rates[dtype] / (row["ms"] / 1e3)
            print(
                f"  {label:24}{row['ms']:9.1f} ms {row['x']:6.2f} x   {row['floor']:4.0%} of the floor"
                f"   deviation {row['deviation']:.1e}"
                + (f"   {row['x_best']:.2f} x its best" if "x_best" in row else ""),
                flush=True,
            )
            results.append({"model": name, "kind": kind, "rows": rows, "label": label, **row})
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__, "gflops": rates}
    print(json.dumps({**machine, "results": results}))


if __name__ == "__main__":
    main()
