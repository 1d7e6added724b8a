"""What does everything but the networks cost? Gateway, Redis, event streams, worker and engine, with free networks.

Real processes over a private Redis: a gateway alone under a load of submissions; one with clients that follow jobs
under way; a job from its POST to its answer, by a worker whose networks cost nothing (`benchmarks.free_worker`); what a
step takes beyond its U-Net call, in an engine alone and in a worker. Torch has one thread everywhere: what is left to
compute is small, and two would measure who else wants the second core. Processor times are read from /proc, so this
runs on Linux only. Prints what was asked and what was measured; the last line is JSON.

    python -m benchmarks.overhead [--submits 3000] [--listeners 200] [--jobs 100]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.bare_client import apart, listen, load_gateway, send
from benchmarks.serving import free_port, wait_until_ready
from ldm_core.model_directory.card_reader import read_card
from ldm_core.params import GenerationParams
from worker.engine.request import Event, Failed, Finished, Request
from worker.jobs import JobPayload
from worker.process.embedded_redis import EmbeddedRedis
from worker.settings import BUILTIN
from worker.store.keys import Key

Results = dict[str, float]

CONNECTIONS = 32
STEP_S = 0.04  # of a device that is worth a service
LISTEN_S = 4.0
ROWS, STEPS = 16, 50
PROMPT = "a red house by the sea at sunset"
# what is told of it, its name in the results, what is asked of it
FIGURES = (
    ("a submit, gateway's processor", "submit_cpu_ms", "<= 2 ms"),
    ("submits a second and core of the gateway", "submits_s_per_core", ">= 800"),
    ("submits a second, by the clock", "submits_s", ""),
    ("a submit among {connections}, p50", "submit_p50_ms", ""),
    ("a submit among {connections}, p99", "submit_p99_ms", ""),
    ("a submit alone, p50", "submit_alone_p50_ms", ""),
    ("a submit, Redis's processor", "submit_redis_cpu_ms", ""),
    ("events a second, {listeners} clients", "events_s", ""),
    ("of the steps, those that arrived", "events_of_steps", ""),
    ("an event, gateway's processor", "event_cpu_ms", ""),
    ("events a second and core of the gateway", "events_s_per_core", ""),
    ("a job of 1 free step, POST to answer, p50", "short_job_p50_ms", "<= 10 ms"),
    ("a job of 1 free step, POST to answer, p99", "short_job_p99_ms", ""),
    ("a job of 10 free steps, POST to answer, p50", "job_p50_ms", "<= 10 ms"),
    ("a job of 10 free steps, POST to answer, p99", "job_p99_ms", ""),
    ("a free step of {rows} rows, engine alone, p50", "step_ms", "<= 1.2 ms"),
    ("  of it gathering, noise and update", "step_model_ms", ""),
    ("  beyond a call that sleeps for {call_ms} ms", "step_after_sleep_ms", ""),
    ("  the same in a worker, mean", "step_in_worker_ms", ""),
    ("a free job, engine alone, beside its steps", "job_engine_ms", ""),
)


class Service:
    """Processes that speak to one Redis, all of them private."""

    def __init__(self, folder: Path, redis: EmbeddedRedis) -> None:
        self.redis, self.port = redis, free_port()
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def gateway(self) -> int:
        """Starts one; its process id."""
        return self._start("service", "gateway", LDM_PORT=self.port, LDM_QUEUE_LIMIT=10**6)

    def worker(self, **settings: Any) -> int:
        """Starts one whose networks are free; its process id."""
        return self._start("benchmarks.free_worker", OMP_NUM_THREADS=1, **settings)

    def builtin_worker(self) -> int:
        """Starts one with the built-in models; its process id."""
        return self._start("service", "worker")

    def wait_until_ready(self) -> None:
        """Until the gateway knows of a worker."""
        wait_until_ready(self.port, "/readyz")

    def stop(self) -> None:
        """Ends every process; nothing is drained."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)

    def _start(self, module: str, *arguments: str, **settings: Any) -> int:
        ours = {"LDM_REDIS_URL": self.redis.url, "LDM_DATA_DIR": self._folder, "LDM_METRICS_PORT": 0, "LDM_DRAIN_S": 0}
        env = os.environ | {name: str(value) for name, value in {**ours, **settings}.items()}
        with (self._folder / f"{module}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=env, stdout=log, stderr=log)
        self._processes.append(process)
        return process.pid


@contextmanager
def service() -> Iterator[Service]:
    """A Redis, and whatever is started beside it; all that was in it goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        redis = EmbeddedRedis(Path(folder) / "redis")
        redis.start()
        running = Service(Path(folder), redis)
        try:
            yield running
        finally:
            running.stop()
            redis.stop()


def submission(steps: int, prefer: str = "") -> bytes:
    """A whole request that makes a job of one row."""
    body = json.dumps({"prompt": PROMPT, "guidance_scale": 1.0, "seed": 7, "steps": steps}).encode()
    head = f"POST /v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{prefer}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return cut[49] * 1e3, cut[98] * 1e3


def submits(count: int) -> Results:
    """A gateway without a worker: what a worker would announce is all that it needs of one."""
    with service() as running:
        gateway = running.gateway()
        assert running.redis.process is not None
        with Redis(unix_socket_path=str(running.redis.socket)) as redis:
            redis.set(Key.CARDS.of("nobody"), json.dumps([read_card(BUILTIN / "scenes").to_json()]))
            redis.sadd(Key.WORKERS, "nobody")
        running.wait_until_ready()
        pids = [gateway, running.redis.process.pid]
        alone, crowded, wall, cpu = apart(load_gateway, running.port, pids, submission(25), count, CONNECTIONS)
    p50, p99 = percentiles(crowded)
    return {
        "submit_cpu_ms": cpu[0] / count * 1e3, "submits_s_per_core": count / cpu[0], "submits_s": count / wall,
        "submit_p50_ms": p50, "submit_p99_ms": p99, "submit_alone_p50_ms": percentiles(alone)[0],
        "submit_redis_cpu_ms": cpu[1] / count * 1e3,
    }  # fmt: skip


def follow(jobs: int) -> tuple[int, int, float, float]:
    """As many clients as jobs under way, in steps as long as a device's, one call each; what `listen` gives."""
    with service() as running:
        gateway = running.gateway()
        running.worker(LDM_MAX_ROWS=jobs, LDM_ROWS=jobs, FREE_STEP_S=STEP_S)
        running.wait_until_ready()
        _, ids = apart(send, running.port, submission(1000), jobs, CONNECTIONS, 202)
        told: tuple[int, int, float, float] = apart(listen, running.port, gateway, ids, LISTEN_S)
        return told


def fan_out(listeners: int) -> Results:
    """Events to many clients."""
    events, steps, wall, cpu = follow(listeners)
    return {
        "events_s": events / wall, "events_of_steps": events / steps, "event_cpu_ms": cpu / events * 1e3,
        "events_s_per_core": events / cpu,
    }  # fmt: skip


def steps_in_worker() -> Results:
    """The same with few jobs, for the time of a step in which result writer and control loop go about their work."""
    _, steps, wall, _ = follow(ROWS)
    return {"step_in_worker_ms": (wall * ROWS / steps - STEP_S) * 1e3}


def round_trips(count: int) -> Results:
    """Jobs of one free step and of ten, one after the other."""
    with service() as running:
        running.gateway()
        running.worker()
        running.wait_until_ready()
        short, long = (submission(steps, "Prefer: wait=10\r\n") for steps in (1, 10))
        apart(send, running.port, long, 10, 1, 200)  # first calls cost more
        (brief, _), (seconds, _) = (apart(send, running.port, request, count, 1, 200) for request in (short, long))
    (short_p50, short_p99), (p50, p99) = percentiles(brief), percentiles(seconds)
    return {"short_job_p50_ms": short_p50, "short_job_p99_ms": short_p99, "job_p50_ms": p50, "job_p99_ms": p99}


class Times:
    """The engine's metrics hooks: when each step ended and what it and each stage took, and what it emits."""

    def __init__(self) -> None:
        self.ended = threading.Semaphore(0)
        self.clear()

    def clear(self) -> None:
        self.steps: list[tuple[int, float, float]] = []  # rows, when, seconds
        self.stages: defaultdict[str, list[float]] = defaultdict(list)

    def step(self, model: str, rows: int, padded: int, seconds: float) -> None:
        self.steps.append((rows, time.perf_counter(), seconds))

    def stage(self, name: str, seconds: float) -> None:
        self.stages[name].append(seconds)

    def rows_running(self, model: str, n: int) -> None: ...

    def hear(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                self.ended.release()


def engine(call_s: float) -> Results:
    """Jobs of one row in one U-Net call a step. A step lasts from the end of one call's update to that of the next."""
    # here, because the clients' processes import this module too, and torch takes seconds
    import torch

    from benchmarks.free_worker import free_model
    from worker.engine.engine import Engine
    from worker.vital import start_vital

    torch.set_num_threads(1)
    model, times = free_model(call_s), Times()
    engine = Engine({model.card.id: model}, rows={model.card.id: ROWS}, max_rows=64, emit=times.hear, metrics=times)
    device = start_vital("device", engine.run)
    for turn in ("warm-up", "measured"):
        times.clear()
        for seed in range(ROWS):
            params = GenerationParams(
                task="txt2img", width=64, height=64, steps=STEPS, guidance_scale=1.0, seed=seed, prompt=PROMPT
            )
            key = f"{turn}.{seed}"
            engine.submit(Request(key, JobPayload(id=key, model=model.card.id, params=params)))
        for _ in range(ROWS):
            times.ended.acquire()
    engine.stop(0)
    device.join()
    full = [(at, seconds) for rows, at, seconds in times.steps if rows == ROWS]
    step_s = statistics.median(after - before for (before, _), (after, _) in pairwise(full)) - call_s
    if call_s:
        return {"step_after_sleep_ms": step_s * 1e3}
    job_s = sum(statistics.median(times.stages[name]) for name in ("begin", "finish", "encode"))
    model_s = statistics.median(seconds for _, seconds in full)
    return {"step_ms": step_s * 1e3, "step_model_ms": model_s * 1e3, "job_engine_ms": job_s * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submits", type=int, default=3000)
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100)
    args = parser.parse_args()
    results = submits(args.submits) | fan_out(args.listeners) | round_trips(args.jobs)
    results |= engine(0.0) | engine(STEP_S) | steps_in_worker()
    load = {"submits": args.submits, "connections": CONNECTIONS, "listeners": args.listeners, "jobs": args.jobs}
    load |= {"rows": ROWS, "call_ms": round(STEP_S * 1e3)}
    print(f"{'':54}{'asked':>10}{'measured':>14}")
    for label, name, asked in FIGURES:
        value = f"{results[name]:.3g}" if results[name] < 100 else f"{results[name]:.0f}"
        unit = " ms" if name.endswith("_ms") else ""
        print(f"{label.format(**load):54}{asked:>10}{value + unit:>14}")
    print(json.dumps(load | results))


if __name__ == "__main__":
    main()
