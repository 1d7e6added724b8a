"""Who waits for a job: what ends the wait before the job does."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from redis import Redis

from tests.service.conftest import Gateway
from tests.service.problems import assert_problem


async def test_a_job_that_the_queue_lost_is_no_accepted_one(
    gateway: Gateway, announced: None, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.broker.broker.POLL_S", 0.1)
    http: httpx.AsyncClient = await gateway()
    waiting = asyncio.create_task(http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=30"}))
    while not redis.zcard("ldm:open"):
        await asyncio.sleep(0.05)
    redis.flushall()
    answer = await asyncio.wait_for(waiting, 10)
    assert "lost it; send it again" in assert_problem(answer, 503)["detail"]
    assert answer.headers["retry-after"] == "2"
