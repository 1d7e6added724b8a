"""Idempotency keys and quotas, as the enqueue script holds them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis import Redis

from service.access.quota import Idempotency, IdempotencyConflict, QueueFull, Quota, Submitted, TooFast, TooManyOpen
from service.broker.broker import Broker
from tests.worker.processes import payload
from worker.store.scripts import Script, cancel

KEY = Idempotency(key="k1", fingerprint="f1")


async def test_many_at_once_under_one_key_make_one_job(broker: Broker, redis: Redis) -> None:
    answers = await asyncio.gather(*(broker.submit(payload(), idempotency=KEY) for _ in range(30)))
    assert len({answer.view.payload.id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 29
    assert redis.llen("rq:queue:toy.normal") == 1


async def test_a_replay_leaves_no_pictures_behind(broker: Broker, tmp_path: Path) -> None:
    for _ in range(3):
        await broker.submit(payload(inputs=("image",)), {"image": b"picture"}, idempotency=KEY)
    assert len(list((tmp_path / "blobs").rglob("*.image"))) == 1


async def test_the_same_key_with_another_request_is_a_conflict(broker: Broker) -> None:
    await broker.submit(payload(), idempotency=KEY)
    with pytest.raises(IdempotencyConflict):
        await broker.submit(payload(), idempotency=Idempotency(key="k1", fingerprint="f2"))
    await broker.submit(payload(owner="another"), idempotency=Idempotency(key="k1", fingerprint="f2"))


async def test_a_replay_costs_nothing_and_outlives_the_pictures(broker: Broker, redis: Redis) -> None:
    quota = Quota(open_jobs=1, rate=1, window_s=60)
    first = await broker.submit(payload(), quota=quota, idempotency=KEY)
    again = await broker.submit(payload(), quota=quota, idempotency=KEY)
    assert (again.view, again.replayed, again.pace) == (first.view, True, None)
    cancel.run(redis, id=first.view.payload.id)
    assert redis.ttl(f"rq:job:{first.view.payload.id}") > 86_000
    assert (await broker.submit(payload(), idempotency=KEY)).view.status == "cancelled"


async def test_an_owner_has_so_many_open_jobs_and_no_more(broker: Broker, redis: Redis) -> None:
    quota = Quota(open_jobs=2)
    sent = [await broker.submit(payload(owner="a"), quota=quota) for _ in range(2)]
    with pytest.raises(TooManyOpen, match="2 jobs"):
        await broker.submit(payload(owner="a"), quota=quota)
    await broker.submit(payload(owner="b"), quota=quota)
    cancel.run(redis, id=sent[0].view.payload.id)
    await broker.submit(payload(owner="a"), quota=quota)
    redis.zrem("ldm:open", sent[1].view.payload.id)  # deleted by another program
    await broker.submit(payload(owner="a"), quota=quota)


async def test_a_quarter_of_the_queue_is_for_those_below_their_share(redis_url: str, tmp_path: Path) -> None:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path, queue_limit=12)
    for owner, taken in (("many", 9), ("few", 3), ("late", 0)):  # 12 - 12 / 4, then what is left
        for _ in range(taken):
            await broker.submit(payload(owner=owner))
        with pytest.raises(QueueFull):
            await broker.submit(payload(owner=owner))
    await broker.close()


async def test_the_limit_holds_for_sixty_owners_at_once(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    brokers = [Broker(redis_url=redis_url, data_dir=tmp_path, queue_limit=40) for _ in range(3)]
    jobs = [payload(owner=f"key-{i % 60}") for i in range(240)]
    tries = [brokers[i % 3].submit(job) for i, job in enumerate(jobs)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert {type(answer) for answer in answers} == {Submitted, QueueFull}
    assert redis.zcard("ldm:open") == redis.scard("ldm:open@toy") == 40
    for broker in brokers:
        await broker.close()


async def test_a_model_without_workers_leaves_the_others_their_places(redis_url: str, tmp_path: Path) -> None:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path, queue_limit=12)
    accepted = 0
    for model in ("gone", "here", "c", "d", "e"):
        for _ in range(13):
            try:
                await broker.submit(payload(model=model))
                accepted += 1
            except QueueFull:
                pass
        assert accepted <= 4 * 12  # all models together
    assert accepted == 4 * 12
    await broker.close()


async def test_a_rate_lets_all_come_at_once_and_then_evenly(broker: Broker) -> None:
    quota = Quota(rate=3, window_s=0.6)
    paces = [(await broker.submit(payload(owner="a"), quota=quota)).pace for _ in range(3)]
    assert [pace.remaining for pace in paces if pace] == [2, 1, 0]
    with pytest.raises(TooFast) as fast:
        await broker.submit(payload(owner="a"), quota=quota)
    assert (fast.value.pace.limit, fast.value.pace.remaining, fast.value.retry_after) == (3, 0, 1)
    await broker.submit(payload(owner="b"), quota=quota)
    time.sleep(0.25)  # one of three in 0.6 s
    await broker.submit(payload(owner="a"), quota=quota)
    with pytest.raises(TooFast):
        await broker.submit(payload(owner="a"), quota=quota)


async def test_an_owners_jobs_are_listed_newest_first_in_pages(broker: Broker, redis: Redis) -> None:
    sent = [(await broker.submit(payload(owner="a"))).view.payload.id for _ in range(5)]
    await broker.submit(payload(owner="b"))
    cancel.run(redis, id=sent[3])
    first, cursor = await broker.jobs("a", limit=2)
    rest, end = await broker.jobs("a", limit=10, before=cursor)
    assert [view.payload.id for view in first + rest] == sent[::-1]
    assert (cursor is not None, end) == (True, None)
    cancelled, _ = await broker.jobs("a", status="cancelled")
    assert [view.payload.id for view in cancelled] == [sent[3]]
    redis.delete(f"rq:job:{sent[4]}")  # expired
    assert [view.payload.id for view in (await broker.jobs("a", limit=1))[0]] == [sent[3]]


@pytest.mark.parametrize(
    ("queue", "base"),
    [("m.normal", "m.normal"), ("m.normal@a-b_1", "m.normal"), ("sd@1.5.high", "sd@1.5.high"),
     ("sd@1.5.high@x", "sd@1.5.high")],
)  # fmt: skip
def test_a_queues_name_gives_its_model_and_priority(redis: Redis, queue: str, base: str) -> None:
    script = Script("local queue = unpack(arguments)\nreturn base_of(queue)")
    assert script.run(redis, queue=queue) == base.encode()
