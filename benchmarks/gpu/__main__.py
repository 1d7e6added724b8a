"""What a GPU makes of the paper's networks, with random weights. Every line is a result by itself, in JSON.

Each stage is a process of its own with a share of the budget, so one that fails says why and the next begins:

env       versions, and the device's limits
images    whole jobs through a worker's engine: a lone one; full steps of 8, 16 and 32 rows
steps     a step captured, eager, and diffusers' call, in turns
bits      which layers keep a row's bits in larger calls, which run in pieces, and whole rows after that
decode    the decoder beside diffusers'
p99       steps with and without decodes beside them
start     a process from its beginning to a warm engine, from files
kernels   the kernels of a step by kind, and what the host launches
compiled  a step beside diffusers' call as torch.compile makes it

    python -m benchmarks.gpu [--stages images steps] [--model sd1-512] [--budget 600] > results.txt
    python -m benchmarks.gpu --table results.txt > benchmarks/results/gpu.md

`--device cpu --model scenes` runs all stages without a GPU; what needs one says so.
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu import bits, decoding, environment, images, kernels, start, steps
from benchmarks.gpu.isolation import TOLD, run_stages, say
from benchmarks.gpu.table import table
from benchmarks.gpu.workloads import WORKLOADS, Bench, Result
from ldm_core.arithmetic import settle_arithmetic
from worker.process.device import chosen_device, chosen_dtype

Stage = Callable[[Bench, str], Iterator[Result]]
STAGES: dict[str, Stage] = {
    "env": lambda bench, _: environment.measure(bench), "images": images.measure, "steps": steps.measure,
    "bits": bits.measure, "decode": decoding.measure, "p99": decoding.measure_p99, "start": start.measure,
    "kernels": kernels.measure, "compiled": steps.measure_compiled,
}  # fmt: skip
# of the time: what is asked comes first, and what compiles last
WEIGHTS = {
    "env": 2, "images": 6, "steps": 4, "bits": 3, "decode": 1.5, "p99": 2, "start": 4, "kernels": 1.5, "compiled": 6,
}  # fmt: skip
COUNTS = (1, 2, 4, 8, 16, 32)
ROUNDS = {"cuda": 15, "cpu": 3}
GPU_MODELS = ("sd1-512", "txt2img-256", "superres-256", "inpainting-512")


def run_here(bench: Bench, stages: list[str], models: list[str]) -> bool:
    """Runs stages in this process; one that fails for a model goes on with the next. Returns whether all have ended."""
    ok, about = True, environment.described(bench)
    for stage in stages:
        for model in models if stage != "env" else ["none"]:
            named = {"stage": stage} if stage == "env" else {"stage": stage, "model": model}
            try:
                for result in STAGES[stage](bench, model):
                    say(**named, **result, environment=about)
            except Exception as error:  # what comes after it counts too
                say(**named, failed=f"{type(error).__name__}: {str(error)[:600]}", environment=about)
                ok = False
            _free_memory(bench)
    return ok


def _free_memory(bench: Bench) -> None:
    torch.compiler.reset()
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES])
    parser.add_argument("--model", nargs="+", choices=WORKLOADS, default=[*GPU_MODELS], dest="models")
    parser.add_argument("--rows", nargs="+", type=int, choices=COUNTS, default=[*COUNTS])
    parser.add_argument(
        "--compiled-rows", nargs="+", type=int, choices=COUNTS, default=[16], help="of the stage `compiled`"
    )
    parser.add_argument("--compile-mode", default="reduce-overhead", help="that of torch.compile for diffusers")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--rounds", type=int, default=0, help="how often each is timed; 0: 15, on a CPU 3")
    parser.add_argument("--budget", type=float, default=600, help="seconds for all stages together")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="prints these results as a table instead")
    parser.add_argument("--here", action="store_true", help="runs the stages in this process, without limits of time")
    args = parser.parse_args()
    if args.table is not None:
        print(table([line for file in args.table for line in file.read_text().splitlines()]), end="")
        return 0
    if not args.here:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a stage's process ends with us
        began = time.monotonic()
        ok = run_stages({stage: _command(args, stage) for stage in args.stages}, WEIGHTS, args.budget)
        say(stages=len(args.stages), all_ended_well=ok, took_s=round(time.monotonic() - began, 1))
        return 0 if ok else 1
    settle_arithmetic()
    device = chosen_device(args.device)
    bench = Bench(
        device, chosen_dtype(args.dtype, device), tuple(args.rows), args.rounds or ROUNDS[device.type],
        tuple(args.compiled_rows), args.compile_mode,
    )  # fmt: skip
    return 0 if run_here(bench, args.stages, args.models) else TOLD


def _command(args: argparse.Namespace, stage: str) -> list[str]:
    options = [
        "--model", *args.models, "--rows", *args.rows, "--compiled-rows", *args.compiled_rows, "--compile-mode",
        args.compile_mode, "--device", args.device, "--dtype", args.dtype, "--rounds", args.rounds,
    ]  # fmt: skip
    return [sys.executable, "-m", "benchmarks.gpu", "--here", "--stages", stage, *map(str, options)]


if __name__ == "__main__":
    sys.exit(main())
