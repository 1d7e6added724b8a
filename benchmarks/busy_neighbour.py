"""How much longer does a default request take while one other loop keeps a core busy?

A server for each setting of OpenMP's threads answers the default text-to-image request on all cores, in turns with the
others and in another order each round, without and with a Python loop beside it. Prints medians, what the loop costs
(`busy`, a multiple of the same server alone) and what the setting costs on an idle host (`idle`, a multiple of the
first setting in the same round). `PYTHONPATH=CHECKOUT` as a setting runs the code of another checkout; spaces separate
several variables. The last line is JSON.

    python -m benchmarks.busy_neighbour [--rounds 21] [--busy-rounds 9] [--settings libgomp product ...]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx

from benchmarks.serving import free_port, running

SPINNING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
PRODUCT, DEFAULTS = "product", "libgomp"  # what the product sets; libgomp as it is
SPINS = "300000"  # libgomp's own count where nothing is set
REQUEST = {"prompt": "a red house by the sea", "seed": 1}
WARM_UP = 4  # requests, of which the third records the calls


@contextmanager
def server(setting: str) -> Iterator[httpx.Client]:
    """This service with one setting, from start to end; a client of it."""
    environment = {name: value for name, value in os.environ.items() if name not in SPINNING}
    if setting == DEFAULTS:
        environment["GOMP_SPINCOUNT"] = SPINS
    elif setting != PRODUCT:
        environment |= dict(part.split("=", 1) for part in setting.split())
    port = free_port()
    environment |= {"LDM_PORT": str(port), "LDM_METRICS_PORT": "0"}
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "service", "serve", "--data-dir", folder, "--device", "cpu"]
        headers = {"Accept": "image/png", "Prefer": "wait=120"}
        with (
            running(command, environment, port, cwd=folder) as url,
            httpx.Client(base_url=url, headers=headers, timeout=180) as client,
        ):
            yield client


def seconds(client: httpx.Client) -> float:
    """One request, from submit to image."""
    began = time.perf_counter()
    answer = client.post("/v1/txt2img", json=REQUEST)
    took = time.perf_counter() - began
    assert answer.headers["content-type"] == "image/png", answer.text
    return took


@contextmanager
def busy_loop() -> Iterator[None]:
    """A process that never rests."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def report(setting: str, idle: list[float], busy: list[float], first: list[float]) -> dict[str, float]:
    """Prints one line; `first` is what the first setting took on an idle host in the same rounds."""
    alone, beside = statistics.median(idle), statistics.median(busy)
    against = statistics.median(its / base for its, base in zip(idle, first, strict=True))
    print(
        f"{setting:28} alone {alone:6.3f} s ({against:.3f} x the first), "
        f"beside a busy loop {beside:6.3f} s ({beside / alone:.2f} x), at worst {max(busy):.3f} s"
    )
    return {"idle_s": alone, "busy_s": beside, "worst_s": max(busy), "busy": beside / alone, "idle": against}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--busy-rounds", type=int, default=9, help="rounds that have a busy loop too")
    parser.add_argument("--settings", nargs="+", default=[DEFAULTS, PRODUCT, "OMP_WAIT_POLICY=PASSIVE"])
    args = parser.parse_args()
    rng = random.Random(0)
    idle: dict[str, list[float]] = {setting: [] for setting in args.settings}
    busy: dict[str, list[float]] = {setting: [] for setting in args.settings}
    with ExitStack() as stack:
        clients = {setting: stack.enter_context(server(setting)) for setting in args.settings}
        for client in clients.values():
            for _ in range(WARM_UP):
                seconds(client)
        for number in range(args.rounds):
            for setting in rng.sample(args.settings, len(args.settings)):
                idle[setting].append(seconds(clients[setting]))
            if number < args.busy_rounds:
                with busy_loop():
                    for setting in rng.sample(args.settings, len(args.settings)):
                        busy[setting].append(seconds(clients[setting]))
    first = idle[args.settings[0]]
    print(json.dumps({each: report(each, idle[each], busy[each], first) for each in args.settings}))


if __name__ == "__main__":
    main()
