"""The gateway's side of the queues, on a real Redis; workers only where a job has to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from service.access.quota import QueueFull
from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from tests.worker.processes import WorkerProcess, payload
from worker.jobs import PRIORITIES, JobView

Start = Callable[..., WorkerProcess]


async def test_the_limit_is_exact_whoever_asks_at_once(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    brokers = [Broker(redis_url=redis_url, data_dir=tmp_path, queue_limit=20) for _ in range(4)]

    tries = [broker.submit(payload()) for broker in brokers for _ in range(20)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, QueueFull)]
    assert len(refused) == 60
    assert all(answer.retry_after >= 1 for answer in refused)
    assert redis.llen("rq:queue:toy.normal") == redis.zcard("ldm:open") == 20
    for broker in brokers:
        await broker.close()


async def test_a_refused_job_leaves_nothing(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path, queue_limit=1)
    await broker.submit(payload())
    job = payload(inputs=("image",))
    with pytest.raises(QueueFull, match="1 jobs"):
        await broker.submit(job, {"image": b"picture"})
    assert not redis.exists(f"rq:job:{job.id}")
    assert not list((tmp_path / "blobs").rglob("*.image"))
    await broker.close()


async def test_retry_after_follows_the_measured_rate(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path, queue_limit=100)
    for _ in range(100):
        await broker.submit(payload())
    now = time.time()
    redis.rpush("ldm:ended", *(now - age for age in range(10)))  # one job a second
    with pytest.raises(QueueFull) as full:
        await broker.submit(payload())
    assert 5 <= full.value.retry_after <= 15  # a tenth of the queue
    await broker.close()


async def test_submitting_an_id_again_changes_nothing(broker: Broker, redis: Redis) -> None:
    job = payload()
    first, second = await broker.submit(job), await broker.submit(job)
    assert first == second
    assert redis.llen("rq:queue:toy.normal") == 1


async def test_a_new_job_is_told_as_it_can_be_read(broker: Broker, redis: Redis) -> None:
    for owner in ("", "shop", "other"):
        for priority in PRIORITIES:
            for _ in range(3):
                sent = await broker.submit(payload(owner=owner, priority=priority, metadata={"album": "7"}))
                assert sent.view == await broker.job(sent.view.payload.id)
    redis.flushall()
    sent = await broker.submit(payload(timeout_s=30, inputs=("image",)), {"image": b"picture"})
    assert sent.view == await broker.job(sent.view.payload.id)
    assert sent.view.queue_position == 1


async def test_the_position_counts_more_urgent_queues(broker: Broker) -> None:
    low = await broker.submit(payload(priority="low"))
    normal = [await broker.submit(payload()) for _ in range(2)]
    await broker.submit(payload(priority="high"))
    positions = [await broker.job(sent.view.payload.id) for sent in (low, *normal)]
    assert [view.queue_position for view in positions if view] == [4, 2, 3]
    assert await broker.queue_depths() == {("toy", "high"): 1, ("toy", "normal"): 2, ("toy", "low"): 1}


async def test_wait_gives_the_present_state_when_time_is_up(broker: Broker) -> None:
    job = payload()
    await broker.submit(job)
    view = await broker.wait(job.id, 0.05)
    assert view is not None
    assert view.status == "queued"


async def test_who_waits_from_the_submission_on_need_not_look(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    read = broker._read

    async def watched(job_id: str) -> JobView | None:
        looked.append(job_id)
        return await read(job_id)

    monkeypatch.setattr(broker, "_read", watched)
    sent = [await broker.submit(payload()) for _ in range(3)]
    waiters = [asyncio.create_task(broker.wait(each.view.payload.id, 20, each.view.event_id)) for each in sent]
    await asyncio.sleep(0.2)
    assert sent[-1].view.payload.id not in looked  # events of the others came after theirs
    for waiter in waiters:
        waiter.cancel()


async def test_who_begins_to_wait_when_the_process_stops_is_answered(broker: Broker) -> None:
    sent = await broker.submit(payload())
    broker.leave()
    view = await asyncio.wait_for(broker.wait(sent.view.payload.id, 60, sent.view.event_id), 1.5)  # not after POLL_S
    assert view == sent.view


async def test_who_waits_from_the_submission_on_does_not_miss_an_end_before_that(
    broker: Broker, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.broker.broker.POLL_S", 60.0)
    start_worker()
    sent = await broker.submit(payload())
    ended = await broker.wait(sent.view.payload.id, 20)
    assert ended is not None
    assert ended == await asyncio.wait_for(broker.wait(ended.payload.id, 60, sent.view.event_id), 20)


async def test_many_waiters_on_one_reader_all_hear_of_the_end(broker: Broker, start_worker: Start) -> None:
    jobs = [payload(steps=2) for _ in range(20)]
    for job in jobs:
        await broker.submit(job)
    waiters = [asyncio.create_task(broker.wait(job.id, 20)) for job in jobs for _ in range(3)]
    start_worker()
    views = await asyncio.gather(*waiters)
    assert {view.status for view in views if view} == {"succeeded"}


async def test_a_reader_that_is_cut_off_resumes(broker: Broker, start_worker: Start, redis: Redis) -> None:
    start_worker()
    job = payload("slow", steps=25)
    await broker.submit(job)
    waiter = asyncio.create_task(broker.wait(job.id, 20))
    await asyncio.sleep(0.1)
    for client in redis.client_list(_type="normal"):
        if client["cmd"] == "xread":
            redis.client_kill_filter(_id=client["id"])
    view = await waiter
    assert view is not None
    assert view.status == "succeeded"


@pytest.mark.parametrize("job_id", ["0" * 32, "../../etc/passwd", "a:b", "", "*"])
async def test_an_unknown_job_is_none_everywhere(broker: Broker, job_id: str) -> None:
    assert await broker.job(job_id) is None
    assert await broker.wait(job_id, 1) is None
    assert await broker.image(job_id, 0) is None
    assert await broker.cancel(job_id) is None


async def test_without_redis_every_call_says_so(tmp_path: Path) -> None:
    broker = Broker(redis_url=f"unix://{tmp_path}/nowhere.sock", data_dir=tmp_path)
    await broker.connect()
    assert not await broker.ping()
    for call in (broker.models, broker.queue_depths, lambda: broker.job("a"), lambda: broker.wait("a", 1)):
        with pytest.raises(BrokerUnavailable):
            await call()
    with pytest.raises(BrokerUnavailable):
        await broker.submit(payload(inputs=("image",)), {"image": b"picture"})
    await broker.close()
