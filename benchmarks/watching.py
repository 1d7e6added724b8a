"""What does a client see that follows a job, how soon, and what does the job pay for it?

Real processes over a private Redis. First a worker whose U-Net call sleeps for STEP_S, as on a device: how long after
the end of a step its event arrives, and at which step the first preview. Then the built-in model: the time of a job's
steps while a client follows them, with previews and without, by turns. Run it on an idle machine. Ends with JSON.

    python -m benchmarks.watching [--rounds 7] [--builtin-steps 600]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.overhead import STEP_S, Service, percentiles, service

STEPS = 100


def follow(http: httpx.Client, steps: int, *, previews: bool) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Makes a job and yields the name, the time of arrival (Unix seconds) and the data of each of its events."""
    asked = {"prompt": "a boat", "guidance_scale": 1.0, "seed": 7, "steps": steps}
    job = http.post("/v1/txt2img", json=asked).raise_for_status().json()
    path = job["urls"]["events"] + ("?preview=1" if previews else "")
    name = ""
    with http.stream("GET", path) as stream:
        for line in stream.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, time.time(), json.loads(value)


def latency_and_first_preview(rounds: int) -> tuple[list[float], list[int]]:
    """Seconds from the end of each step to its event, and the step of each round's first preview."""
    delays, first = [], []
    with TemporaryDirectory() as folder, service() as running:
        log = Path(folder) / "steps"
        with _client(running, running.worker, FREE_STEP_S=STEP_S, FREE_STEP_LOG=log) as http:
            for _ in range(rounds):
                log.write_text("")
                events = list(follow(http, STEPS, previews=True))
                ends = [float(line) for line in log.read_text().split()]
                progress = [(arrived, data) for name, arrived, data in events if name == "progress"]
                delays += [arrived - ends[data["step"] - 1] for arrived, data in progress]
                first.append(next(data["step"] for _, data in progress if "preview" in data))
    return delays, first


def step_times(rounds: int, steps: int) -> dict[bool, list[float]]:
    """Seconds of a step of the built-in model, with previews (True) and without."""
    times: dict[bool, list[float]] = {True: [], False: []}
    with service() as running, _client(running, running.builtin_worker) as http:
        for _ in range(rounds + 1):
            for previews in (True, False):
                *_, (_, _, job) = follow(http, steps, previews=previews)
                took = datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["started_at"])
                times[previews].append(took.total_seconds() / steps)
    return {previews: each[1:] for previews, each in times.items()}  # the first calls take longer


def _client(running: Service, start_worker: Any, **settings: Any) -> httpx.Client:
    running.gateway()
    start_worker(**settings)
    running.wait_until_ready()
    return httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--builtin-steps", type=int, default=600)
    asked = parser.parse_args()
    delays, first = latency_and_first_preview(asked.rounds)
    p50, p99 = percentiles(delays)
    times = step_times(asked.rounds, asked.builtin_steps)
    with_previews, without = (statistics.median(times[previews]) for previews in (True, False))
    results = {
        "event_latency_p50_ms": p50, "event_latency_p99_ms": p99, "first_preview_step": max(first),
        "step_ms": without * 1e3, "preview_cost": with_previews / without - 1,
    }  # fmt: skip
    print(f"an event after the end of its step, p50, p99  {p50:.1f}, {p99:.1f} ms  (<= 20 ms)")
    print(f"the first preview comes with step             {max(first)}  (<= 2 after the first)")
    print(f"a step                                        {without * 1e3:.1f} ms")
    print(f"  with previews                               {results['preview_cost']:+.1%}  (<= 2 %)")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
