"""Who gets a worker's rows when there are more jobs than rows."""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis

from service.broker.broker import Broker
from tests.worker.processes import WorkerProcess, eventually, nothing_is_left, payload
from worker.jobs import JobPayload, queue_name

Start = Callable[..., WorkerProcess]


async def submitted(broker: Broker, count: int, **given: object) -> list[str]:
    jobs = [payload(**given) for _ in range(count)]
    for job in jobs:
        await broker.submit(job)
    return [job.id for job in jobs]


def started(redis: Redis) -> list[str]:
    """The jobs in the order in which they were taken."""
    return [f[b"id"].decode() for _, f in redis.xrange("ldm:events") if f[b"kind"] == b"started"]


async def test_one_owners_many_jobs_do_not_delay_anothers_few(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    many = await submitted(broker, 40, owner="many")
    few = await submitted(broker, 2, owner="few")
    other = await submitted(broker, 2, owner="other")
    start_worker(max_rows=4)
    eventually(lambda: nothing_is_left(redis))
    order = started(redis)
    assert max(order.index(job_id) for job_id in few + other) < 6
    assert [job_id for job_id in order if job_id in many] == many  # an owner's own jobs stay in their order


async def test_an_owner_comes_in_although_another_has_every_row(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    many = await submitted(broker, 12, prompt="slow", steps=400, owner="many")
    start_worker(max_rows=8)
    eventually(lambda: len(started(redis)) == 8)
    (late,) = await submitted(broker, 1, prompt="slow", steps=1, owner="late")
    eventually(lambda: redis.hget(f"rq:job:{late}", "status") == b"finished")
    assert {redis.hget(f"rq:job:{job_id}", "status") for job_id in many} == {b"started", b"queued"}
    assert len(started(redis)) == 9  # and of those that have their share none came in with it


async def test_an_urgent_job_comes_in_although_every_row_is_taken(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    await submitted(broker, 10, prompt="slow", steps=400, priority="low")
    start_worker(max_rows=8)
    eventually(lambda: len(started(redis)) == 8)
    (urgent,) = await submitted(broker, 1, steps=1, priority="high")
    eventually(lambda: redis.hget(f"rq:job:{urgent}", "status") == b"finished")
    assert len(started(redis)) == 9


async def test_one_owners_urgent_jobs_do_not_keep_anothers_out(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    await submitted(broker, 200, prompt="slow", steps=400, owner="many", priority="high")
    start_worker(max_rows=8)
    eventually(lambda: len(started(redis)) == 8)
    few = [*await submitted(broker, 1, steps=1, owner="few", priority="low"), *await submitted(broker, 1, owner="few")]
    for owner in ("one", "another", "third"):
        few += await submitted(broker, 1, steps=1, owner=owner, n=8)
    eventually(lambda: all(redis.hget(f"rq:job:{job_id}", "status") == b"finished" for job_id in few))
    assert len(started(redis)) == 8 + len(few)


async def test_an_owner_below_its_share_of_the_rows_gets_them(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    await submitted(broker, 30, prompt="slow", steps=1000, owner="many", priority="high")
    start_worker(max_rows=8)
    eventually(lambda: len(started(redis)) == 8)
    few = await submitted(broker, 20, prompt="slow", steps=1000, owner="few")
    eventually(lambda: len(started(redis)) == 12)
    assert [started(redis).count(job_id) for job_id in few] == [1] * 4 + [0] * 16


async def test_the_least_urgent_comes_in_beside_the_most_urgent_of_its_owner(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    """It rests most of the time; but a stream of urgent jobs does not keep it out for ever."""
    await submitted(broker, 40, prompt="slow", steps=1000, priority="high")
    start_worker(max_rows=8)
    eventually(lambda: len(started(redis)) == 8)
    normal = await submitted(broker, 3, prompt="slow", steps=1000)
    low = await submitted(broker, 3, prompt="slow", steps=1000, priority="low")
    eventually(lambda: {normal[0], low[0]} <= set(started(redis)))
    assert not {*low[1:]} & set(started(redis))


async def test_the_position_counts_the_turns_of_others(broker: Broker) -> None:
    many = await submitted(broker, 5, owner="many")
    few = await submitted(broker, 2, owner="few")
    views = [await broker.job(job_id) for job_id in (*many, *few)]
    assert [view.queue_position for view in views if view] == [1, 3, 5, 6, 7, 1, 3]


async def test_the_position_counts_ones_own_urgent_jobs_and_not_those_of_others(broker: Broker) -> None:
    many = await submitted(broker, 3, owner="many", priority="high")
    few = [*await submitted(broker, 1, owner="few"), *await submitted(broker, 1, owner="few", priority="high")]
    views = [await broker.job(job_id) for job_id in (*many, *few)]
    assert [view.queue_position for view in views if view] == [1, 3, 5, 3, 1]


async def test_another_programs_requeue_is_found(broker: Broker, start_worker: Start, redis: Redis) -> None:
    job = JobPayload.from_json(payload(owner="shop").to_json())
    await broker.submit(job)
    redis.delete("ldm:ring:toy.normal")  # as after `rq requeue`, which knows only the queue
    assert redis.llen(f"rq:queue:{queue_name('toy', 'normal', 'shop')}") == 1
    start_worker(lease_s=2, beat_s=0.2)
    ended = await broker.wait(job.id, 10)
    assert ended is not None
    assert ended.status == "succeeded"
