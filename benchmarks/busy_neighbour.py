"""How much longer does a default request take while one other loop keeps a core busy?

A process for each setting of OpenMP's threads loads `scenes` and runs its default text-to-image request on all cores,
in turns with the others, without and with a Python loop beside it. Prints medians, what the loop costs (`busy`, a
multiple of the same process alone) and what the setting costs on an idle host (`idle`, a multiple of libgomp's own
defaults in the same round). The last line is JSON.

    python -m benchmarks.busy_neighbour [--rounds 9] [--settings product libgomp OMP_WAIT_POLICY=PASSIVE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUILTIN = Path(__file__).parents[1] / "ldm_core/builtin"
SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
DEFAULTS = "libgomp"  # the setting that leaves libgomp as it is
SPINS = "300000"  # libgomp's own count where nothing is set
SERVE = """
import sys, time
from pathlib import Path
import ldm_core, torch
from ldm_core.loading import load_model
from ldm_core.params import GenerationParams
model = load_model(Path(sys.argv[1]), "cpu", torch.float32)
width, height = model.card.native_size
params = GenerationParams(
    task="txt2img", prompt="a red house by the sea", width=width, height=height, steps=model.card.default_steps, seed=1,
    guidance_scale=model.card.default_guidance_scale,
)
for _ in range(2):
    model.generate(params)
for line in sys.stdin:
    started = time.perf_counter()
    model.generate(params)
    print(time.perf_counter() - started, flush=True)
"""


class Contestant:
    """A process with one setting; it computes only when asked."""

    def __init__(self, setting: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in SPINNING}
        if setting == DEFAULTS:
            environment["GOMP_SPINCOUNT"] = SPINS
        elif setting != "product":
            environment |= dict(part.split("=", 1) for part in setting.split(","))
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(BUILTIN / "scenes")],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seconds(self) -> float:
        """What one request takes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def busy_loop() -> Iterator[None]:
    """A process that never rests."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def report(setting: str, idle: list[float], busy: list[float], defaults: list[float]) -> dict[str, float]:
    """Prints one line; `defaults` is what libgomp's own setting took on an idle host in the same rounds."""
    alone, beside = statistics.median(idle), statistics.median(busy)
    against = statistics.median(own / its for own, its in zip(idle, defaults, strict=True))
    print(
        f"{setting:28} alone {alone:6.3f} s ({against:.3f} x {DEFAULTS}'s), "
        f"beside a busy loop {beside:6.3f} s ({beside / alone:.2f} x), at worst {max(busy):.3f} s"
    )
    return {"idle_s": alone, "busy_s": beside, "worst_s": max(busy), "busy": beside / alone, "idle": against}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--settings", nargs="+", default=["product", "OMP_WAIT_POLICY=PASSIVE"])
    args = parser.parse_args()
    contestants = {setting: Contestant(setting) for setting in dict.fromkeys([DEFAULTS, *args.settings])}
    idle: dict[str, list[float]] = {setting: [] for setting in contestants}
    busy: dict[str, list[float]] = {setting: [] for setting in contestants}
    for _ in range(args.rounds):
        for setting, contestant in contestants.items():
            idle[setting].append(contestant.seconds())
        with busy_loop():
            for setting, contestant in contestants.items():
                busy[setting].append(contestant.seconds())
    for contestant in contestants.values():
        contestant.close()
    print(json.dumps({each: report(each, idle[each], busy[each], idle[DEFAULTS]) for each in contestants}))


if __name__ == "__main__":
    main()
