"""Serving, the user's view: the same requests to this service and to what people write today.

Against (a) diffusers behind FastAPI with a lock, one request at a time; (b) diffusers that takes together what is
alike; (c) this service with batching off (one image at a time). Every server runs alone, in processes of its own,
over the built-in models; the requests are seeded and differ in task, size, steps, guidance and seed. First all at
once, for the capacity; then as a Poisson process at 50 %, 80 % and 120 % of (a)'s capacity, open loop. Time is from
submit to bytes, and to the end of the first step: what this service's event streams and (a)'s and (b)'s own clocks say.
The last line is JSON.

    python -m benchmarks.serving [--burst 32] [--poisson 64] [--loads 0.5 0.8 1.2] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from PIL import Image

PROMPTS = ("a red house by the sea at sunset", "a pine in the snow at night", "a blue boat, mountains behind", "")
START_S = 120.0
FIRST_STEP = "X-First-Step"  # in the answers of (a) and (b): seconds from the request to the end of its first step
SIDES = (64, 64, 128)  # pixels of the result; the models were trained on 64
Request = tuple[str, dict[str, Any]]


def workload(count: int, seed: int) -> list[Request]:
    """Mixed requests: half of them text to image, a quarter inpainting, a quarter super-resolution."""
    rng = random.Random(seed)
    requests = []
    for _ in range(count):
        task = rng.choice(("txt2img", "txt2img", "inpaint", "superres"))
        body = {
            "steps": rng.randint(10, 50),
            "guidance_scale": 1.0 if task == "superres" else rng.choice((1.0, 4.0)),
            "seed": rng.randrange(2**32),
        }
        side = rng.choice(SIDES)
        if task != "superres":
            body["prompt"] = rng.choice(PROMPTS)
        if task == "txt2img":
            body |= {"width": side, "height": side}
        if task == "inpaint":
            body |= {"image": _picture(side, rng), "mask": _mask(side)}
        if task == "superres":
            body["image"] = _picture(side // 4, rng)
        requests.append((task, body))
    return requests


def _picture(side: int, rng: random.Random) -> str:
    colours = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(4)]
    small = Image.new("RGB", (2, 2))
    small.putdata(colours)
    return _base64(small.resize((side, side), Image.Resampling.BICUBIC))


def _mask(side: int) -> str:
    mask = Image.new("L", (side, side))
    mask.paste(255, (side // 4, side // 3, side * 3 // 4, side * 7 // 8))
    return _base64(mask)


def _base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(name: str, dtype: str) -> Iterator[str]:
    """One of the contestants, from start to end; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ)
        if name in {"ours", "c"}:
            command = ["-m", "service", "serve", "--port", str(port), "--data-dir", folder, "--device", "cpu"]
            env |= {"LDM_METRICS_PORT": "0", "LDM_DTYPE": dtype}
            env |= {"LDM_MAX_ROWS": "2"} if name == "c" else {}
        else:
            command = ["-m", "benchmarks.peer", "--port", str(port), "--dtype", "float32"]
            command += ["--mode", "lock" if name == "a" else "static"]
        with running(command, env, port, "/readyz" if name in {"ours", "c"} else "/docs") as url:
            yield url


@contextmanager
def running(
    command: list[str], env: dict[str, str], port: int, path: str = "/readyz", cwd: str | None = None
) -> Iterator[str]:
    """A server, `python *command`, from the first answer at `path` to its end; its address."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(port, path)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until_ready(port: int, path: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"no server on port {port}")


async def send(url: str, requests: list[Request], arrivals: list[float]) -> tuple[float, list[float], list[float]]:
    """Sends each request at its time. Seconds from the first to the last answer, each one's own, to its first step."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        started = time.perf_counter()

        async def one(request: Request, at: float) -> tuple[float, float]:
            await asyncio.sleep(max(0.0, started + at - time.perf_counter()))
            task, body = request
            sent, began = time.perf_counter(), 0.0
            answer = await http.post(f"/v1/{task}", json=body)
            if answer.status_code == 202:
                urls = answer.json()["urls"]
                began = await first_step(http, urls["events"]) - sent
                answer = await http.get(f"{urls['self']}/images/0")
            assert answer.status_code == 200, answer.text[:500]
            assert answer.content.startswith(b"\x89PNG")
            return time.perf_counter() - sent, began or float(answer.headers[FIRST_STEP])

        each = await asyncio.gather(*map(one, requests, arrivals))
        return time.perf_counter() - started, [whole for whole, _ in each], [began for _, began in each]


async def first_step(http: httpx.AsyncClient, events: str) -> float:
    """Follows a job to its end; when its first step was heard of, or its end where that came at once."""
    began = 0.0
    async with http.stream("GET", events) as answer:
        async for line in answer.aiter_lines():
            if line in {"event: progress", "event: succeeded", "event: failed"}:
                began = began or time.perf_counter()
    assert began, "its events ended before it did"
    return began


def measured(url: str, requests: list[Request], arrivals: list[float]) -> dict[str, float]:
    """Images a second, and p50, p95 and p99 of the seconds that requests took."""
    seconds, times, began = asyncio.run(send(url, requests, arrivals))
    whole, first = (statistics.quantiles(each, n=100, method="inclusive") for each in (times, began))
    row = {
        "p50": whole[49],
        "p95": whole[94],
        "p99": whole[98],
        "first_step_p50": first[49],
        "first_step_p95": first[94],
    }
    return {"images_s": len(requests) / seconds, **{name: round(value, 3) for name, value in row.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--burst", type=int, default=32)
    parser.add_argument("--poisson", type=int, default=64)
    parser.add_argument("--loads", nargs="*", type=float, default=[0.5, 0.8, 1.2])
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="of this service's networks"
    )
    parser.add_argument("--contestants", nargs="+", default=["a", "b", "c", "ours"], choices=("a", "b", "c", "ours"))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the servers would outlive it
    burst, stream = workload(args.burst, seed=1), workload(args.poisson, seed=2)
    results: dict[str, Any] = {"dtype": args.dtype, "burst": args.burst, "poisson": args.poisson}
    capacity = 0.0
    print(f"{'':8}{'load':>8}{'images/s':>10}{'p50':>9}{'p95':>9}{'p99':>9}   first step, {'p50':>7}{'p95':>9}")
    for name in args.contestants:
        with server(name, args.dtype) as url:
            asyncio.run(send(url, burst[:4], [0.0] * 4))  # first calls cost more
            rows = {"burst": measured(url, burst, [0.0] * len(burst))}
            capacity = capacity or rows["burst"]["images_s"]
            for load in args.loads:
                rng = random.Random(3)
                arrivals = [0.0]
                while len(arrivals) < len(stream):
                    arrivals.append(arrivals[-1] + rng.expovariate(load * capacity))
                rows[f"{load:.0%}"] = measured(url, stream, arrivals)
        for label, row in rows.items():
            print(
                f"{name:8}{label:>8}{row['images_s']:10.2f}{row['p50']:8.2f}s{row['p95']:8.2f}s{row['p99']:8.2f}s"
                f"{row['first_step_p50']:20.2f}s{row['first_step_p95']:8.2f}s",
                flush=True,
            )
        results[name] = rows
    if "a" in results and "ours" in results:
        ours, lock = results["ours"], results["a"]
        results["ratios"] = {
            label: {"images_s": ours[label]["images_s"] / row["images_s"], "p95": ours[label]["p95"] / row["p95"]}
            for label, row in lock.items()
        }
        for label, ratio in results["ratios"].items():
            print(f"ours, {label}: {ratio['images_s']:.2f} x the images/s of (a), {ratio['p95']:.2f} x its p95")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
