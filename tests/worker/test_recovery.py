"""Whatever happens to workers and to Redis, every job ends, once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from service.broker.upkeep import NoRoom
from tests.worker.processes import WorkerProcess, eventually, nothing_is_left, payload
from worker.leasing.heartbeat import revoke
from worker.process.embedded_redis import EmbeddedRedis
from worker.store import scripts
from worker.store.keys import Key
from worker.store.records import LOST, result_fields
from worker.vital import EXIT_HUNG

Start = Callable[..., WorkerProcess]
QUICK = {"lease_s": 1, "beat_s": 0.2}


def steps_done(redis: Redis, job_id: str) -> int:
    return int(redis.hget(f"rq:job:{job_id}", "x_step") or 0)


def successes(redis: Redis, job_id: str) -> int:
    return len([1 for _, fields in redis.xrange(f"rq:results:{job_id}") if fields[b"type"] == b"1"])


async def submit(broker: Broker, count: int, **given: Any) -> list[str]:
    return [(await broker.submit(payload("slow", **given))).view.payload.id for _ in range(count)]


async def statuses(broker: Broker, ids: list[str]) -> list[str]:
    ended = [await broker.wait(job_id, 30) for job_id in ids]
    return [view.status for view in ended if view]


def admit(redis: Redis, worker: str, lease_s: int = 20) -> list[Any]:
    taken, _ = scripts.admit.run(
        redis, worker=worker, token=f"token-{worker}", lease=lease_s, room=8, turn=0, format="here", held=0, max_rows=8,
        spare=2, models=["toy"], rows={},
    )  # fmt: skip
    return list(taken)


def commit(redis: Redis, worker: str, taken: list[Any]) -> str:
    job_id, _, execution = (part.decode(errors="replace") for part in taken[:3])
    result = result_fields(job_id, [], None, worker, execution)
    reply = scripts.commit.run(
        redis, worker=worker, id=job_id, exe=execution, status="finished", retry=False, seconds=0.1, images="[]",
        problem="", warnings="[]", result=result,
    )  # fmt: skip
    return str(reply.decode())


def maintain(redis: Redis, unlisted_s: float = 10) -> list[int]:
    return list(scripts.maintain.run(redis, problem='{"detail": "lost"}', unlisted=unlisted_s, lease=20))


async def test_jobs_of_a_killed_worker_finish_elsewhere_once(broker: Broker, start_worker: Start, redis: Redis) -> None:
    first = start_worker()
    ids = await submit(broker, 4, steps=40)
    eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in ids))
    first.kill()
    assert revoke(redis, first.name) == 4
    again = [await broker.job(job_id) for job_id in ids]
    assert {(view.status, view.step) for view in again if view} == {("queued", 0)}
    start_worker()
    assert await statuses(broker, ids) == ["succeeded"] * 4
    assert [successes(redis, job_id) for job_id in ids] == [1] * 4
    assert nothing_is_left(redis)


async def test_without_a_supervisor_the_leases_run_out(broker: Broker, start_worker: Start, redis: Redis) -> None:
    first = start_worker(**QUICK)
    ids = await submit(broker, 3, steps=30)
    eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in ids))
    first.kill()
    start_worker(**QUICK)
    assert await statuses(broker, ids) == ["succeeded"] * 3
    assert [redis.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids] == [b"5"] * 3
    assert nothing_is_left(redis)


async def test_a_worker_that_wakes_after_its_leases_cannot_write(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    first = start_worker(**QUICK)
    ids = await submit(broker, 3, steps=60)
    eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in ids))
    first.process.send_signal(signal.SIGSTOP)
    second = start_worker(**QUICK)
    eventually(lambda: all(redis.hget(f"rq:job:{i}", "worker_name") == second.name.encode() for i in ids))
    first.process.send_signal(signal.SIGCONT)
    assert await statuses(broker, ids) == ["succeeded"] * 3
    assert [successes(redis, job_id) for job_id in ids] == [1] * 3
    assert {redis.hget(f"rq:job:{i}", "worker_name") for i in ids} == {second.name.encode()}


async def test_the_fence_refuses_whoever_lost_the_job(broker: Broker, redis: Redis) -> None:
    await submit(broker, 1)
    (taken,) = admit(redis, "first")
    revoke(redis, "first")
    assert commit(redis, "first", taken) == "lost"
    (again,) = admit(redis, "second")
    assert commit(redis, "first", taken) == "lost"
    assert commit(redis, "second", again) == "finished"
    assert commit(redis, "second", again) == "finished"  # its reply may have been lost
    assert commit(redis, "first", taken) == "lost"
    assert successes(redis, again[0].decode()) == 1


async def test_a_cancel_that_was_accepted_wins_over_a_late_success(broker: Broker, redis: Redis) -> None:
    (job_id,) = await submit(broker, 1)
    (taken,) = admit(redis, "w")
    scripts.cancel.run(redis, id=job_id)
    assert commit(redis, "w", taken) == "canceled"
    assert await statuses(broker, [job_id]) == ["cancelled"]


async def test_a_job_that_outlives_no_worker_fails_with_the_reason(broker: Broker, redis: Redis) -> None:
    (job_id,) = await submit(broker, 1)
    for start in range(7):
        assert len(admit(redis, f"w{start}")) == 1
        revoke(redis, f"w{start}")
    view = await broker.job(job_id)
    assert view is not None
    assert (view.status, view.error) == ("failed", LOST)
    assert nothing_is_left(redis)


@pytest.mark.parametrize(("poison", "most"), [("crash", 2), ("eats all memory", 7)])
async def test_a_job_that_kills_its_workers_takes_no_other_with_it(
    broker: Broker, start_worker: Start, redis: Redis, poison: str, most: int
) -> None:
    innocent = await submit(broker, 3, steps=10)
    killer = (await broker.submit(payload(poison))).view.payload.id
    innocent += await submit(broker, 3, steps=10)
    deaths = 0
    while redis.exists("ldm:open"):
        worker = start_worker()
        eventually(lambda: worker.process.poll() is not None or not redis.exists("ldm:open"))  # noqa: B023
        if worker.process.poll() is not None:
            deaths += 1
            revoke(redis, worker.name, crashed=-worker.process.returncode == signal.SIGSEGV)
    assert deaths == most
    assert await statuses(broker, [killer, *innocent]) == ["failed"] + ["succeeded"] * 6


async def test_a_kill_costs_no_retry_where_the_job_had_moved_on(broker: Broker, redis: Redis) -> None:
    (job_id,) = await submit(broker, 1)
    for start, expected in enumerate([b"6", b"6", b"5", b"5"]):
        (taken,) = admit(redis, f"w{start}")
        if start in {0, 1, 3}:  # saved further on than ever; the third one dies where the second did
            assert scripts.saved.run(redis, id=job_id, exe=taken[2].decode(), step=5 * start + 5) == 1
        revoke(redis, f"w{start}")
        assert redis.hget(f"rq:job:{job_id}", "retries_left") == expected
    assert steps_done(redis, job_id) == 20  # what the next one goes on from
    assert scripts.saved.run(redis, id=job_id, exe="of another execution", step=30) == 0


async def test_recovery_by_many_at_once_puts_a_job_back_once(broker: Broker, redis: Redis) -> None:
    await submit(broker, 5)
    admit(redis, "gone", lease_s=-1)
    assert maintain(redis)[0] == 5
    assert maintain(redis)[0] == 0
    assert redis.llen("rq:queue:toy.normal") == 5


async def test_ids_that_fell_out_of_every_list_are_put_back(broker: Broker, redis: Redis) -> None:
    queued, started, kept = await submit(broker, 3)
    admit(redis, "gone")
    revoke(redis, "gone")
    redis.lrem("rq:queue:toy.normal", 0, queued)
    redis.lrem("rq:queue:toy.normal", 0, started)
    redis.hset(f"rq:job:{started}", mapping={"status": "started", "x_exec": "nobody"})
    assert maintain(redis, unlisted_s=60) == [0, 0]  # a moment without a list is no loss yet
    assert maintain(redis, unlisted_s=0) == [0, 2]
    assert sorted(redis.lrange("rq:queue:toy.normal", 0, -1)) == sorted(i.encode() for i in (queued, started, kept))


async def test_an_id_that_is_listed_twice_runs_once(broker: Broker, start_worker: Start, redis: Redis) -> None:
    ids = await submit(broker, 2)
    redis.rpush("rq:queue:toy.normal", ids[0])  # as another program's clean-up may do
    start_worker()
    assert await statuses(broker, ids) == ["succeeded"] * 2
    eventually(lambda: nothing_is_left(redis))
    assert successes(redis, ids[0]) == 1


async def test_sigterm_lets_running_jobs_finish(broker: Broker, start_worker: Start, redis: Redis) -> None:
    worker = start_worker()
    ids = await submit(broker, 2, steps=30)
    eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in ids))
    assert worker.stop() == 0
    assert await statuses(broker, ids) == ["succeeded"] * 2
    assert await broker.models() == []
    assert not redis.exists(f"ldm:worker:{worker.name}", f"ldm:commands:{worker.name}")


async def test_a_drain_that_is_over_puts_jobs_back_in_order_and_burns_no_retry(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    worker = start_worker(drain_s=0.1, max_rows=3)
    ids = await submit(broker, 5, steps=500)
    eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in ids[:3]))
    assert worker.stop() == 0
    assert [job_id.decode() for job_id in redis.lrange("rq:queue:toy.normal", 0, -1)] == ids
    assert {redis.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids} == {b"6"}
    assert not redis.exists("rq:wip:toy.normal")


async def test_a_device_that_hangs_ends_its_worker(broker: Broker, start_worker: Start, redis: Redis) -> None:
    worker = start_worker(step_timeout_s=0.5, **QUICK)
    job_id = (await broker.submit(payload("hang"))).view.payload.id
    assert worker.process.wait(15) == EXIT_HUNG
    view = await broker.job(job_id)
    assert view is not None
    assert view.status == "queued"  # it gave its jobs back before it ended
    assert redis.hget(f"rq:job:{job_id}", "retries_left") == b"2"
    assert revoke(redis, worker.name) == 0


def test_a_worker_may_be_up_before_its_redis(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    worker = WorkerProcess(server.url, tmp_path)
    try:
        eventually(lambda: b"Redis is away" in worker.log.read_bytes())
        server.start()
        with Redis.from_url(server.url) as redis:
            eventually(lambda: redis.exists(f"ldm:worker:{worker.name}", f"rq:worker:{worker.name}") == 2)
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
        server.stop()


async def test_a_redis_that_goes_away_costs_no_outcome(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    broker = Broker(redis_url=server.url, data_dir=tmp_path)
    await broker.connect()
    worker = WorkerProcess(server.url, tmp_path)
    try:
        ids = await submit(broker, 3, steps=25)
        with Redis.from_url(server.url) as redis:
            eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in ids))
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        assert not await broker.ping()
        with pytest.raises(BrokerUnavailable):
            await broker.submit(payload())
        eventually(lambda: b"cannot write an outcome" in worker.log.read_bytes())  # it went on without Redis
        server.start()
        assert await statuses(broker, ids) == ["succeeded"] * 3
        with Redis.from_url(server.url) as redis:
            assert [redis.hget(f"rq:job:{job_id}", "x_starts") for job_id in ids] == [b"1"] * 3
        assert worker.stop() == 0
    finally:
        if worker.process.poll() is None:
            worker.kill()
        await broker.close()
        server.stop()


async def test_a_full_redis_takes_no_jobs_and_ends_those_that_it_has(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    worker = start_worker(max_rows=2, **QUICK)
    running = await submit(broker, 2, steps=200)
    eventually(lambda: all(steps_done(redis, job_id) > 3 for job_id in running))
    unwanted = (await broker.submit(payload("slow", steps=1000, priority="high"))).view.payload.id
    eventually(lambda: redis.hget(f"rq:job:{unwanted}", "status") == b"started")
    queued = await submit(broker, 2, steps=2)
    redis.config_set("maxmemory", "1")
    try:
        with pytest.raises((BrokerUnavailable, NoRoom)):
            await broker.submit(payload())
        cancelled = await broker.cancel(unwanted)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
        assert await statuses(broker, running + queued) == ["succeeded"] * 4
        assert len(await broker.models()) == 1  # it still says that it lives
        assert worker.stop() == 0
        assert not redis.exists(f"ldm:worker:{worker.name}")
    finally:
        redis.config_set("maxmemory", "0")


async def test_a_drain_outlives_a_redis_that_refuses_writes(
    broker: Broker, start_worker: Start, redis: Redis, redis_config: Callable[[str, object], None]
) -> None:
    worker = start_worker(drain_s=0.1)
    (job_id,) = await submit(broker, 1, steps=1000)
    eventually(lambda: steps_done(redis, job_id) > 3)
    redis_config("min-replicas-to-write", 1)  # NOREPLICAS, as MISCONF for a full disk
    with pytest.raises((BrokerUnavailable, NoRoom)):
        await broker.submit(payload())
    assert worker.stop() == 0
    assert "jobs come back when their leases end" in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


async def test_a_record_of_another_version_does_not_end_the_worker_that_cleans_up(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    (job_id,) = await submit(broker, 1)
    scripts.cancel.run(redis, id=job_id)
    redis.hset(f"rq:job:{job_id}", "data", b"unreadable")
    worker = start_worker(**QUICK)
    eventually(lambda: not redis.exists(Key.ORPHANS))
    await statuses(broker, await submit(broker, 1))
    assert worker.process.poll() is None


async def test_pictures_that_cannot_be_read_just_now_cost_their_job_nothing(
    broker: Broker, start_worker: Start, redis: Redis, tmp_path: Path
) -> None:
    job = payload("!", inputs=("image",))
    await broker.submit(job, {"image": b"picture"})
    (picture,) = (tmp_path / "blobs").rglob("*.image")
    away = picture.rename(picture.with_name("away"))
    picture.symlink_to(picture)  # what is asked for here is an error of the disk, not a file that is missing
    worker = start_worker()
    eventually(lambda: worker.log.read_bytes().count(b"the job goes back") > 1)
    away.replace(picture)  # at once: in between it would be missing
    assert redis.hget(f"rq:job:{job.id}", "retries_left") == b"6"
    ended = await broker.wait(job.id, 20)
    assert ended is not None
    assert ended.status == "succeeded"


async def test_a_preview_that_was_asked_for_before_the_job_began_comes_with_its_first_steps(
    broker: Broker, redis: Redis
) -> None:
    watched, other = await submit(broker, 2)
    await broker.preview(watched)
    assert {reply[0].decode(): reply[-1] for reply in admit(redis, "one")} == {watched: 1, other: 0}
