"""One denoising step on a GPU: ours against diffusers', eager and compiled, and against what the chip can do.

For the paper's networks with random weights in half precision: milliseconds of a step, the share of the floor (the
arithmetic at the measured rate of a large product of matrices), and what it makes in pictures a second without decode,
beside the paper's own figures. Compiling (torch.compile, max-autotune, which captures a CUDA graph) takes minutes a
shape and is left out with --eager. The last line is JSON.

    python -m benchmarks.gpu [--models sd1-512 superres-256] [--rows 2 16] [--dtype bfloat16] [--eager] > results.txt

On a machine without a GPU, `--device cpu --models scenes --rows 1 --eager` shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import DENOISERS, Denoiser, finish, matrix_rate, peer_of
from ldm_core.compiled import CompiledUNet
from ldm_core.packed import for_inference

Pass = Callable[[], Tensor]
WARM = 3
# rows of a picture's step, steps, and pictures a second of the paper (tables 5 and 6, A100) where it has them
PICTURES: dict[str, tuple[int, int, float | None]] = {
    "scenes": (2, 25, None),
    "sd1-256": (2, 50, None),
    "sd1-512": (2, 50, None),
    "txt2img-256": (2, 50, None),
    "superres-256": (1, 100, 4.62),
    "inpainting-512": (1, 50, 0.34),
}


def passes(denoiser: Denoiser, rows: int, dtype: torch.dtype, device: str, *, eager: bool) -> dict[str, Pass]:
    """One step, by contestant, in channels-last memory, on the same weights."""
    laid_out = torch.channels_last
    ours = denoiser.build().to(device, dtype).to(memory_format=laid_out)  # type: ignore[call-overload]
    peer = peer_of(ours)
    for_inference(ours)
    x, t, context = denoiser.inputs(rows, dtype)
    moved: list[Any] = [x.to(device).to(memory_format=laid_out), t.to(device)]
    moved += [] if context is None else [context.to(device)]
    found: dict[str, Pass] = {
        "diffusers": lambda: peer(*moved, return_dict=False)[0],
        "ours": lambda: ours(*moved),
    }
    if not eager:
        their = torch.compile(peer, mode="max-autotune", fullgraph=True)
        our = CompiledUNet(ours)  # what LDM_COMPILE=1 makes of it
        found["diffusers compiled"] = lambda: their(*moved, return_dict=False)[0]
        found["ours compiled"] = lambda: our(*moved)
    return found


def seconds(run: Pass, device: str, rounds: int) -> float:
    """Of one step, with the device's queue empty before and after."""
    times = []
    for number in range(WARM + rounds):
        finish(device)
        started = time.perf_counter()
        run()
        finish(device)
        if number >= WARM:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=DENOISERS, default=[*DENOISERS])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 16, 64])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    rate = matrix_rate(dtype, args.device, side=8192 if args.device.startswith("cuda") else 2048)
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    print(f"{name}, {args.dtype}, {rate:.0f} GFLOP/s in a product of matrices, torch {torch.__version__}")
    results = []
    for model in args.models:
        rows_each, steps, paper = PICTURES[model]
        gflop = DENOISERS[model].gflop()
        print(f"{model}: {gflop:.1f} GFLOP a row" + (f"; the paper made {paper}/s on an A100" if paper else ""))
        for rows in args.rows:
            with torch.inference_mode():
                for label, run in passes(DENOISERS[model], rows, dtype, args.device, eager=args.eager).items():
                    taken = seconds(run, args.device, args.rounds)
                    share, made = rows * gflop / rate / taken, rows / rows_each / steps / taken
                    print(
                        f"  {rows:3} rows  {label:20}{1e3 * taken:9.2f} ms{share:6.0%} of the floor"
                        f"{made:8.2f} pictures/s of {steps} steps",
                        flush=True,
                    )
                    results.append(
                        {
                            "model": model,
                            "rows": rows,
                            "label": label,
                            "ms": 1e3 * taken,
                            "floor": share,
                            "made_s": made,
                        }
                    )
            torch.compiler.reset()
    print(
        json.dumps(
            {"device": name, "dtype": args.dtype, "gflops": rate, "torch": torch.__version__, "results": results}
        )
    )


if __name__ == "__main__":
    main()
