"""`make bench`: the benchmarks that a CPU runs in ten minutes, one after the other. The last line is JSON.

python -m benchmarks [--only png step overhead batching serving]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from benchmarks.step import cpu_name

RUNS = {
    "png": [["benchmarks.png"]],
    "step": [
        ["benchmarks.step", "--models", "scenes", "--rows", "2", "--rounds", "30", "--best"],
        ["benchmarks.step", "--models", "scenes", "--decode", "--rows", "1", "8", "--rounds", "30"],
        ["benchmarks.step", "--models", "sd1-256", "--decode", "--rows", "2", "--rounds", "4"],
    ],
    "overhead": [["benchmarks.overhead"]],
    "batching": [["benchmarks.batching", "--jobs", "32"]],
    "serving": [["benchmarks.serving", "--contestants", "a", "ours", "--loads"]],
}


def run(command: list[str]) -> Any:
    """Shows what a benchmark prints, and returns its last line, read."""
    print(f"\n== {' '.join(command)}", flush=True)
    last = ""
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith(("{", "[")):
                print(line, end="", flush=True)
            last = line
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(last)


def commit() -> str:
    """Of the tree that is measured, and whether it has changes of its own."""
    shown = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=[*RUNS])
    wanted = parser.parse_args().only
    started = time.perf_counter()
    libraries = {name: version(name) for name in ("torch", "diffusers", "fastapi", "redis", "rq")}
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit(), "cpu": cpu_name(), "cores": os.cpu_count()}
    print(", ".join(f"{key} {value}" for key, value in (about | libraries).items()))
    results = {name: [run(command) for command in RUNS[name]] for name in wanted}
    seconds = round(time.perf_counter() - started)
    print(f"\nall in {seconds} s")
    print(json.dumps({**about, "libraries": libraries, "seconds": seconds, "results": results}))


if __name__ == "__main__":
    main()
