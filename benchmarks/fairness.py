"""Fairness between API keys: what one key's job takes while another key sends all that it can.

Key B sends one default text-to-image job, first alone, then beside each of key A's attacks: many urgent jobs, the
largest images, short urgent jobs, sizes never seen before, and large images of low priority. Each attack has a server
of its own, over the built-in models; A's jobs are seeded and run for some seconds before B's come, one after the
other. Printed are B's seconds alone, the median and most beside A, and their ratio; the last line is JSON.

    python -m benchmarks.fairness [--attacks urgent large short sizes low] [--jobs 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from benchmarks.serving import free_port, running

KEYS = {name: f"benchmark-{name}-0123456789" for name in "ab"}
JOB = {"prompt": "a red house by the sea at sunset", "seed": 7}
LEAD_S = 3.0  # A's jobs run before the first of B's


def attack_jobs(name: str, side: int) -> list[dict[str, Any]]:
    """All that key A sends; `side` is that of the largest image that the model draws, in pixels."""
    rng = random.Random(1)
    job = {"prompt": "a pine in the snow at night", "seed": rng.randrange(2**32)}
    if name == "urgent":
        return [{**job, "priority": "high"}] * 200
    if name == "large":
        return [{**job, "width": side, "height": side, "n": 8, "steps": 1000}] * 10
    if name == "short":
        return [{**job, "priority": "high", "steps": 1}] * 400
    if name == "low":
        return [{**job, "width": side, "height": side, "n": 8, "priority": "low"}] * 40
    sizes = [(width, height) for width in range(32, 129, 16) for height in range(32, 129, 16)]
    return [{**job, "width": width, "height": height} for width, height in rng.sample(sizes, len(sizes))]


@contextmanager
def server() -> Iterator[str]:
    """This service with two keys, from start to end; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "service", "serve", "--port", str(port), "--data-dir", folder, "--device", "cpu"]
        keys = ",".join(f"{name}:{secret}" for name, secret in KEYS.items())
        env = {**os.environ, "LDM_API_KEYS": keys, "LDM_METRICS_PORT": "0"}
        with running(command, env, port) as url:
            yield url


def client(url: str, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {KEYS[key]}", "Prefer": "wait=120"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=300)


async def seconds_of(http: httpx.AsyncClient) -> float:
    """One job of key B, from submit to answer."""
    began = time.perf_counter()
    answer = await http.post("/v1/txt2img", json=JOB)
    answer.raise_for_status()
    assert answer.json()["status"] in {"succeeded", "queued", "running"}, answer.text
    return time.perf_counter() - began


async def largest_side(http: httpx.AsyncClient) -> int:
    """Of a square image that the default model takes, in pixels; asked for by a job that is cancelled at once."""
    for side in (256, 128):
        answer = await http.post(
            "/v1/txt2img", json={**JOB, "width": side, "height": side}, headers={"Prefer": "wait=0"}
        )
        if answer.status_code == 202:
            await http.delete(answer.headers["Location"])
            return side
    raise SystemExit("the default model takes no square image of 128 pixels")


async def send_all(http: httpx.AsyncClient, jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        (await http.post("/v1/txt2img", json=job, headers={"Prefer": "wait=0"})).raise_for_status()


async def measured(url: str, name: str, jobs: int) -> tuple[list[float], list[float]]:
    """B's seconds alone, and beside the attack."""
    async with client(url, "a") as a, client(url, "b") as b:
        alone = [await seconds_of(b) for _ in range(jobs + 2)][2:]  # first calls cost more
        attack = asyncio.create_task(send_all(a, attack_jobs(name, await largest_side(a))))
        await asyncio.sleep(LEAD_S)
        beside = [await seconds_of(b) for _ in range(jobs)]
        await attack
    return alone, beside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("urgent", "large", "short", "sizes", "low")
    parser.add_argument("--attacks", nargs="+", default=list(names), choices=names)
    parser.add_argument("--jobs", type=int, default=5, help="of key B, one after the other")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the servers would outlive it
    results: dict[str, dict[str, float]] = {}
    print(f"{'attack':10}{'alone':>9}{'beside: median':>17}{'most':>9}{'ratio':>8}")
    for name in args.attacks:
        with server() as url:
            alone, beside = asyncio.run(measured(url, name, args.jobs))
        row = {"alone_s": statistics.median(alone), "median_s": statistics.median(beside), "most_s": max(beside)}
        results[name] = row | {"ratio": row["median_s"] / row["alone_s"]}
        print(
            f"{name:10}{row['alone_s']:8.2f}s{row['median_s']:16.2f}s{row['most_s']:8.2f}s"
            f"{results[name]['ratio']:8.1f}",
            flush=True,
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
