"""The asyncio client: every kind of argument arrives, at any size, and a lost connection is told of."""

from __future__ import annotations

import asyncio
import os

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, TimeoutError

from worker.store import connection
from worker.store.connection import connect_async


async def test_every_kind_of_argument_arrives(redis_url: str) -> None:
    async with connect_async(redis_url) as client:
        sent = ["word", "ü ß", b"\x00\xff\r\n", 7, -2.5]
        assert await client.rpush("kinds", *sent) == len(sent)
        assert await client.lrange("kinds", 0, -1) == [b"word", "ü ß".encode(), b"\x00\xff\r\n", b"7", b"-2.5"]
        assert await client.config_get("maxmemory") == {"maxmemory": "0"}  # "CONFIG GET" are two words
        async with client.pipeline() as pipeline:
            assert await pipeline.set("a", 1).get("a").execute() == [True, b"1"]


async def test_what_is_larger_than_the_kernels_buffers_arrives(redis_url: str) -> None:
    large = os.urandom(16 * 2**20)
    async with connect_async(redis_url) as client:
        await asyncio.gather(*(client.set(f"large:{i}", large) for i in range(3)))
        assert [await client.get(f"large:{i}") == large for i in range(3)] == [True] * 3


async def test_a_lost_connection_is_told_of_and_replaced(redis_url: str, redis: Redis) -> None:
    async with connect_async(redis_url) as client:
        waiting = asyncio.create_task(client.blpop(["nothing"], timeout=3))
        while not (blocked := [known["id"] for known in redis.client_list() if known["cmd"] == "blpop"]):
            await asyncio.sleep(0.01)
        redis.client_kill_filter(_id=blocked[0])
        with pytest.raises(ConnectionError):
            await waiting
        assert await client.get("a") is None


@pytest.mark.parametrize("size", [10, 64 * 2**20])  # the one is written at once, the other never whole
async def test_a_redis_that_falls_silent_is_a_timeout(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    over = asyncio.Event()

    async def greet_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(65536)
        writer.write(b"+OK\r\n" * asked.count(b"*"))
        await over.wait()
        writer.transport.abort()

    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", 0.3)
    async with await asyncio.start_server(greet_only, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect_async(f"redis://127.0.0.1:{port}?protocol=2") as client:
            with pytest.raises(TimeoutError):
                await client.set("a", b"x" * size)
        over.set()
        await asyncio.sleep(0.1)  # so that the client sees the end of it
