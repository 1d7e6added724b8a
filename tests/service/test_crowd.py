"""Many clients in the same instant, more than one gateway has connections to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from service.broker.broker import MAX_SUBMITS, Broker
from tests.abuse.gateway import Gateway
from tests.end_to_end.serving import eventually
from tests.worker.processes import payload
from worker.store.connection import MAX_CONNECTIONS, connect_async


async def test_a_crowd_waits_for_a_connection_instead_of_being_sent_away(broker: Broker) -> None:
    sent = await asyncio.gather(*(broker.submit(payload()) for _ in range(5 * MAX_CONNECTIONS)))
    assert {each.view.status for each in sent} == {"queued"}


async def test_connections_are_lent_in_the_order_of_asking(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.connection.MAX_CONNECTIONS", 1)
    redis, rounds = connect_async(redis_url), []

    async def ask_twice() -> None:
        for number in (1, 2):
            await redis.ping()
            rounds.append(number)

    await asyncio.gather(*(ask_twice() for _ in range(50)))
    assert rounds == [1] * 50 + [2] * 50
    await redis.aclose()


async def test_a_connection_that_cannot_be_opened_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.connection.MAX_CONNECTIONS", 1)
    redis = connect_async("unix:///nowhere/redis.sock")
    for _ in range(3):
        with pytest.raises(ConnectionError, match="nowhere"):
            await redis.ping()
    await redis.aclose()


def test_the_submits_of_clients_that_have_gone_are_passed_over(
    start_gateway: Callable[..., Gateway], redis: Redis
) -> None:
    gateway = start_gateway()
    body = b'{"prompt": "a boat"}'
    head = (
        b"POST /v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    redis.execute_command("CLIENT", "PAUSE", 2000, "WRITE")
    for _ in range(100):
        with gateway.connect() as client:
            client.sendall(head % len(body) + body)
    answer = httpx.post(f"{gateway.url}/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202, answer.text
    eventually(lambda: gateway.log().count(" 499 ") + redis.zcard("ldm:open") >= 101)
    assert redis.zcard("ldm:open") <= 1 + MAX_SUBMITS
    assert redis.zscore("ldm:open", answer.json()["id"]) is not None
