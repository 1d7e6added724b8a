"""A Redis that could not keep a job, and jobs that nobody takes."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.broker.broker import Broker
from service.broker.end_task import end_task
from service.broker.upkeep import HEALTH_S, NoRoom, Upkeep
from tests.service.problems import assert_problem
from tests.worker.processes import eventually, payload
from worker.store.blobs import RedisBlobs

Gateway = Callable[..., Awaitable[httpx.AsyncClient]]
Configure = Callable[[str, object], None]
MEGABYTE = 2**20


async def seen() -> None:
    """Until the gateway has looked at Redis again."""
    await asyncio.sleep(HEALTH_S + 0.1)


def used_memory(redis: Redis) -> int:
    """Once Redis has given back, in its own time, what tests before this one took."""
    used = 0
    while abs((now := int(redis.info("memory")["used_memory"])) - used) > used / 1000:
        used = now
        time.sleep(0.2)
    return now


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_evicts_gets_no_jobs(
    http: httpx.AsyncClient, announced: None, redis: Redis, redis_config: Configure, policy: str
) -> None:
    redis_config("maxmemory", 500 * MEGABYTE)
    redis_config("maxmemory-policy", policy)
    await seen()
    for asked in (http.get("/readyz"), http.post("/v1/txt2img", json={"prompt": "x"})):
        problem = assert_problem(await asked, 503)
        assert policy in problem["detail"]
        assert "LDM_ALLOW_EVICTION=1" in problem["detail"]
    assert not redis.exists("ldm:open")
    redis_config("maxmemory-policy", "noeviction")
    await seen()
    assert (await http.get("/readyz")).status_code == 200  # as soon as that is mended


async def test_a_redis_that_is_away_is_logged_once_and_so_is_its_return(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Away:
        there = False

        async def info(self, section: str) -> object:
            if not self.there:
                raise ConnectionError("Connection refused")
            return redis.info(section)

    away = Away()
    upkeep = Upkeep(away, RedisBlobs(redis), redis_url="redis://:hunter2@queue:6380/0", allow_eviction=False)
    caplog.set_level(logging.INFO)
    for there in (False, False, True, True):
        away.there = there
        with suppress(ConnectionError):
            await upkeep._inspected()
    told = [record.getMessage() for record in caplog.records if "queue:6380" in record.getMessage()]
    assert told == [
        "Redis at queue:6380 does not answer (Connection refused); no jobs are taken meanwhile",
        "Redis at queue:6380 answers",
    ]


async def test_an_operator_may_go_on_with_a_redis_that_evicts(
    gateway: Gateway, announced: None, redis_config: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    redis_config("maxmemory", 500 * MEGABYTE)
    redis_config("maxmemory-policy", "allkeys-lru")
    http = await gateway(allow_eviction=True)
    with caplog.at_level(logging.WARNING):
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202
    assert len([record for record in caplog.records if "drops accepted jobs" in record.message]) <= 1


async def test_without_a_maxmemory_nothing_is_evicted_and_it_is_only_said(
    gateway: Gateway, announced: None, redis_config: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    redis_config("maxmemory-policy", "allkeys-lru")
    redis_config("appendonly", "no")
    with caplog.at_level(logging.WARNING):
        http = await gateway()
        assert (await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202
    said = " ".join(record.message for record in caplog.records)
    assert "maxmemory-policy allkeys-lru" in said
    assert "no append-only file" in said


async def test_a_tenth_of_the_memory_is_kept_for_the_ends_of_jobs(
    http: httpx.AsyncClient, announced: None, redis: Redis, redis_config: Configure
) -> None:
    for i in range(640):
        redis.set(f"others:{i}", bytes(MEGABYTE // 16))
    used = used_memory(redis)
    redis_config("maxmemory", int(used * 1.05))  # 95 % of it are used
    await seen()
    answer = await http.post("/v1/txt2img", json={"prompt": "x"})
    assert "memory of Redis is almost full" in assert_problem(answer, 503)["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    redis_config("maxmemory", int(used * 2))
    await seen()
    assert (await http.post("/v1/txt2img", json={"prompt": "x"})).status_code == 202


async def test_images_that_open_jobs_will_want_are_reckoned_in(
    redis: Redis, redis_url: str, redis_config: Configure, tmp_path: Path
) -> None:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path, blobs=RedisBlobs(redis))
    used = used_memory(redis)
    large = {"n": 8, "width": 512, "height": 512}  # 6 MB
    redis_config("maxmemory", int((used + 15 * MEGABYTE) / 0.9))
    sent = [(await broker.submit(payload(**large))).view.payload.id for _ in range(2)]
    with pytest.raises(NoRoom, match="memory"):
        await broker.submit(payload(**large))
    await broker.submit(payload())  # a small one fits
    await broker.cancel(sent[0])
    await broker.submit(payload(**large))
    redis_config("maxmemory", 0)
    for job_id in redis.zrange("ldm:open", 0, -1):
        await broker.cancel(job_id.decode())
    assert not redis.exists("ldm:reserved")
    await broker.close()


async def test_a_job_that_no_worker_takes_fails_and_says_so(
    gateway: Gateway, announced: None, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.broker.upkeep.SWEEP_S", 0.2)
    http = await gateway(queue_ttl_s=1)
    answer = await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=20"})
    job = answer.json()
    assert job["status"] == "failed"
    assert job["error"]["detail"] == "No worker took the job within 1 s."
    assert job["error"]["status"] == 503
    assert not redis.exists("ldm:open", "ldm:due", "ldm:open@toy", "rq:queue:toy.normal")
    picture = await http.get(f"/v1/jobs/{job['id']}/images/0")
    assert_problem(picture, 409)


async def test_metrics_say_how_many_workers_a_model_has(http: httpx.AsyncClient, announced: None, redis: Redis) -> None:
    await http.post("/v1/txt2img", json={"prompt": "x"})
    assert re.search(r'^ldm_workers\{model="toy"\} 1.0$', (await http.get("/metrics")).text, re.MULTILINE)
    redis.delete("ldm:worker:nobody")
    eventually(lambda: not redis.exists("ldm:worker:nobody"))
    assert re.search(r'^ldm_workers\{model="toy"\} 0.0$', (await http.get("/metrics")).text, re.MULTILINE)


async def test_a_task_that_swallows_its_cancellation_ends_all_the_same() -> None:
    async def swallows_two() -> None:
        for _ in range(3):  # as redis-py does with one that meets a time-out
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    task = asyncio.create_task(swallows_two())
    await asyncio.sleep(0)
    await asyncio.wait_for(end_task(task), 5)
    assert task.done()
