"""Many clients in the same instant, more than one gateway has connections to Redis."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError

from service.broker import Broker
from tests.worker.processes import payload
from worker.connection import MAX_CONNECTIONS, connect_async


async def test_a_crowd_waits_for_a_connection_instead_of_being_sent_away(broker: Broker) -> None:
    sent = await asyncio.gather(*(broker.submit(payload()) for _ in range(5 * MAX_CONNECTIONS)))
    assert {each.view.status for each in sent} == {"queued"}


async def test_connections_are_lent_in_the_order_of_asking(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.connection.MAX_CONNECTIONS", 1)
    redis, rounds = connect_async(redis_url), []

    async def ask_twice() -> None:
        for number in (1, 2):
            await redis.ping()
            rounds.append(number)

    await asyncio.gather(*(ask_twice() for _ in range(50)))
    assert rounds == [1] * 50 + [2] * 50
    await redis.aclose()


async def test_a_connection_that_cannot_be_opened_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.connection.MAX_CONNECTIONS", 1)
    redis = connect_async("unix:///nowhere/redis.sock")
    for _ in range(3):
        with pytest.raises(ConnectionError, match="nowhere"):
            await redis.ping()
    await redis.aclose()
