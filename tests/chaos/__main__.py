"""Breaks the service on purpose and counts: real processes, a real Redis, real tiny models. `make chaos`.

Prints one table, scenario by scenario what was asked and what was measured, and the same as JSON in the last line.
Exits with 1 if anything misses.

    python -m tests.chaos [--only NAME ...] [--seed 0] [--size 1.0] [--keep]
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.chaos.figures import Figure, table
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.world import World


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=float, default=1.0, help="share of the jobs and kills that are asked for")
    parser.add_argument("--keep", action="store_true", help="leave data and logs where they are")
    args = parser.parse_args()
    # the service must not outlive this, and a shell's `&` ignores SIGINT
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    root = Path(tempfile.mkdtemp(prefix="ldm-chaos-"))  # short: a socket's path is limited
    world = World(root, seed=args.seed, size=args.size)
    figures: list[Figure] = []
    for name in args.only:
        started = time.monotonic()
        found = attempt(name, world)
        misses = [f"{figure.what}: {figure.measured}" for figure in found if not figure.ok]
        seconds = time.monotonic() - started
        print(f"{name}: {seconds:.0f} s", *(misses or ["ok"]), sep=", ", file=sys.stderr, flush=True)
        figures += found
    ok = all(figure.ok for figure in figures)
    print(table(figures))
    print(json.dumps({"ok": ok, "seed": args.seed, "size": args.size, "figures": [asdict(f) for f in figures]}))
    if args.keep or not ok:
        print(f"data and logs: {root}", file=sys.stderr)
    else:
        shutil.rmtree(root)
    return 0 if ok else 1


def attempt(name: str, world: World) -> list[Figure]:
    """A scenario that stumbles is a miss; the others still run."""
    try:
        return SCENARIOS[name](world)
    except Exception as error:
        traceback.print_exc()
        return [Figure(name, "ran to its end", "yes", f"{type(error).__name__}: {str(error)[:80]}", ok=False)]


if __name__ == "__main__":
    sys.exit(main())
