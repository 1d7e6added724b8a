"""HTTP clients for `benchmarks.overhead`: bare HTTP/1.1 on asyncio's streams, in a process of their own.

They share the processor with what is measured, and httpx alone would take as much of it as the gateway does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
STEP = re.compile(rb'event: progress\ndata: {"step":(\d+)')
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a coroutine function gives, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, work, arguments).result()


def _run(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return asyncio.run(work(*arguments))


def cpu_s(pid: int) -> float:
    """Seconds of processor that a process has used, in all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def exchange(streams: Streams, request: bytes) -> tuple[int, bytes]:
    """One request and its answer on a connection that stays open."""
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    assert length is not None, head
    return int(head[9:12]), await reader.readexactly(int(length[1]))


async def send(port: int, request: bytes, count: int, connections: int, status: int) -> tuple[list[float], list[str]]:
    """Sends `request` so often, one after the other on each connection: seconds of each, and the jobs' ids."""
    seconds, ids, left = [], [], count

    async def one_connection() -> None:
        nonlocal left
        streams = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            started = time.perf_counter()
            got, answer = await exchange(streams, request)
            seconds.append(time.perf_counter() - started)
            assert got == status, answer
            ids.append(json.loads(answer)["id"])
        streams[1].close()

    await asyncio.gather(*(one_connection() for _ in range(connections)))
    return seconds, ids


async def listen(port: int, pid: int, ids: list[str], for_s: float) -> tuple[int, int, float, float]:
    """Follows every job on a connection of its own: events, steps that were taken, seconds, those of `pid`."""
    events, steps = 0, [0] * len(ids)
    heard, over = asyncio.Semaphore(0), asyncio.Event()

    async def one_stream(index: int) -> None:
        nonlocal events
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /v1/jobs/{ids[index]}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while not over.is_set():
            event = await reader.readuntil(b"\n\n")
            assert b"event: succeeded" not in event, "a job has ended too early"
            if (step := STEP.search(event)) is not None:
                if not steps[index]:
                    heard.release()
                events, steps[index] = events + 1, int(step[1])
        writer.close()

    streams = [asyncio.create_task(one_stream(index)) for index in range(len(ids))]
    for _ in ids:
        await heard.acquire()
    events, steps_before, cpu, started = 0, sum(steps), cpu_s(pid), time.perf_counter()
    await asyncio.sleep(for_s)
    told = events, sum(steps) - steps_before, time.perf_counter() - started, cpu_s(pid) - cpu
    over.set()
    await asyncio.gather(*streams)
    return told


async def load_gateway(
    port: int, pids: list[int], request: bytes, count: int, connections: int
) -> tuple[list[float], list[float], float, list[float]]:
    """Seconds of each request that is sent alone, of each of `count` in a crowd, and of the crowd; those of `pids`."""
    alone, _ = await send(port, request, 100, 1, 202)
    before, started = [cpu_s(pid) for pid in pids], time.perf_counter()
    crowded, _ = await send(port, request, count, connections, 202)
    wall = time.perf_counter() - started
    return alone, crowded, wall, [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
