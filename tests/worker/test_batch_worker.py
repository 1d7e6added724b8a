"""A worker process at its work, seen by our broker and by RQ's own eyes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker

from service.broker.broker import Broker
from tests.worker.processes import WorkerProcess, eventually, nothing_is_left, payload

Start = Callable[..., WorkerProcess]


async def test_a_job_travels_from_the_queue_to_its_picture(broker: Broker, start_worker: Start, redis: Redis) -> None:
    start_worker()
    job = payload("a boat", n=2, seed=11)
    queued = (await broker.submit(job)).view
    assert queued.payload == job
    done = await broker.wait(job.id, 10)
    assert done is not None
    assert (done.status, done.step, done.error) == ("succeeded", 4, None)
    assert [image.seed for image in done.images] == [11, 12]
    assert await broker.image(job.id, 1) == b"a boat:11"
    assert await broker.image(job.id, 2) is None
    assert done.created_at <= (done.started_at or 0) <= (done.finished_at or 0) < (done.expires_at or 0)
    assert nothing_is_left(redis)
    assert 0 < redis.ttl(f"rq:job:{job.id}") <= 3600


async def test_rq_sees_a_finished_and_a_failed_job(broker: Broker, start_worker: Start, redis: Redis) -> None:
    worker = start_worker()
    good, bad = payload("a boat"), payload("break")
    for job in (good, bad):
        await broker.submit(job)
    await broker.wait(good.id, 10)
    failed = await broker.wait(bad.id, 10)
    assert failed is not None
    assert failed.status == "failed"
    assert failed.error == {
        "type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": "told to break",
    }  # fmt: skip
    seen = Job.fetch(good.id, connection=redis, serializer=JSONSerializer)
    assert seen.is_finished
    assert seen.return_value()[0]["seed"] == 7
    assert seen.worker_name == worker.name
    assert FinishedJobRegistry("toy.normal", redis).get_job_ids() == [good.id]
    assert FailedJobRegistry("toy.normal", redis).get_job_ids() == [bad.id]
    result = Job.fetch(bad.id, connection=redis, serializer=JSONSerializer).latest_result()
    assert result is not None
    assert result.exc_string == "told to break"


async def test_rq_sees_every_job_that_runs_at_once(
    broker: Broker, start_worker: Start, redis: Redis, redis_url: str
) -> None:
    worker = start_worker()
    jobs = [payload("slow", steps=1000) for _ in range(5)]
    for job in jobs:
        await broker.submit(job)
    ids = sorted(job.id for job in jobs)
    registry = StartedJobRegistry("toy.normal", redis, serializer=JSONSerializer)
    eventually(lambda: sorted(key.split(":")[0] for key in registry.get_job_ids(cleanup=False)) == ids)
    (seen,) = Worker.all(connection=redis, serializer=JSONSerializer)
    assert seen.name == worker.name
    assert sorted(execution.job_id for execution in seen.get_current_executions()) == ids
    assert redis.hget(f"rq:worker:{worker.name}", "state") == b"busy"
    info = [sys.executable, "-m", "rq.cli", "info", "--url", redis_url, "--raw"]
    shown = subprocess.run(info, capture_output=True, text=True, check=True, timeout=30).stdout
    assert worker.name in shown
    assert "toy.normal" in shown
    for job in jobs:
        assert redis.hget(f"rq:worker:{worker.name}", "state") == b"busy"
        await broker.cancel(job.id)
    eventually(lambda: redis.hget(f"rq:worker:{worker.name}", "state") == b"idle")


async def test_one_job_that_fails_leaves_its_mates_alone(broker: Broker, start_worker: Start) -> None:
    start_worker()
    jobs = [payload("break" if i == 3 else "a boat", steps=5) for i in range(8)]
    for job in jobs:
        await broker.submit(job)
    ended = [await broker.wait(job.id, 10) for job in jobs]
    assert [view.status for view in ended if view] == ["succeeded"] * 3 + ["failed"] + ["succeeded"] * 4


async def test_what_may_go_better_is_tried_three_times_more(broker: Broker, start_worker: Start, redis: Redis) -> None:
    start_worker()
    job = payload("flaky")
    await broker.submit(job)
    ended = await broker.wait(job.id, 10)
    assert ended is not None
    assert ended.status == "failed"
    assert redis.hmget(f"rq:job:{job.id}", "x_starts", "retries_left") == [b"4", b"0"]


async def test_input_pictures_reach_the_engine_and_are_gone_afterwards(
    broker: Broker, start_worker: Start, tmp_path: Path
) -> None:
    start_worker()
    job = payload("!", inputs=("image", "mask"))
    await broker.submit(job, {"image": b"picture", "mask": b"mask"})
    await broker.wait(job.id, 10)
    assert await broker.image(job.id, 0) == b"picture!:7"
    eventually(lambda: not [p for p in (tmp_path / "blobs").rglob("*") if p.suffix in {".image", ".mask"}])


async def test_a_picture_that_is_no_longer_there_fails_its_job_with_the_reason(
    broker: Broker, start_worker: Start, tmp_path: Path
) -> None:
    job = payload("!", inputs=("image",))
    await broker.submit(job, {"image": b"picture"})
    next((tmp_path / "blobs").rglob("*.image")).unlink()
    start_worker()
    ended = await broker.wait(job.id, 10)
    assert ended is not None
    assert ended.status == "failed"
    assert "input image" in (ended.error or {})["detail"]


async def test_a_cancelled_queued_job_never_runs(broker: Broker, start_worker: Start, redis: Redis) -> None:
    jobs = [payload("a boat") for _ in range(3)]
    for job in jobs:
        await broker.submit(job)
    cancelled = await broker.cancel(jobs[1].id)
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    start_worker()
    ended = [await broker.wait(job.id, 10) for job in jobs]
    assert [view.status for view in ended if view] == ["succeeded", "cancelled", "succeeded"]
    assert redis.hget(f"rq:job:{jobs[1].id}", "x_starts") is None
    assert redis.ttl(f"rq:job:{jobs[1].id}") > 0
    assert nothing_is_left(redis)


async def test_a_cancelled_running_job_leaves_its_batch(broker: Broker, start_worker: Start, redis: Redis) -> None:
    start_worker()
    gone, stays = payload("slow", steps=1000), payload("slow", steps=60)
    for job in (gone, stays):
        await broker.submit(job)
    eventually(lambda: int(redis.hget(f"rq:job:{gone.id}", "x_step") or 0) > 2)
    cancelled = await broker.cancel(gone.id)
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert cancelled.step < 60
    mate = await broker.wait(stays.id, 10)
    assert mate is not None
    assert mate.status == "succeeded"
    again = await broker.cancel(gone.id)
    assert again is not None
    assert again.status == "cancelled"


async def test_a_finished_job_that_is_cancelled_loses_its_pictures(broker: Broker, start_worker: Start) -> None:
    start_worker()
    job = payload("a boat")
    await broker.submit(job)
    await broker.wait(job.id, 10)
    after = await broker.cancel(job.id)
    assert after is not None
    assert (after.status, after.images) == ("succeeded", ())
    assert await broker.image(job.id, 0) is None


async def test_a_full_worker_takes_no_more_than_it_has_room_for(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    start_worker(max_rows=4)
    for _ in range(12):
        await broker.submit(payload("slow", steps=50, n=2))
    eventually(lambda: redis.zcard("rq:wip:toy.normal") == 2)
    for _ in range(20):
        assert redis.zcard("rq:wip:toy.normal") <= 2
        await asyncio.sleep(0.01)


async def test_urgent_jobs_go_first_and_the_others_do_not_starve(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    for priority in ("low", "normal", "high"):
        for _ in range(16):
            await broker.submit(payload("a boat", steps=1, priority=priority))
    start_worker(max_rows=1)
    eventually(lambda: nothing_is_left(redis))
    events = [fields for _, fields in redis.xrange("ldm:events") if fields[b"kind"] == b"started"]
    order = [redis.hget(f"rq:job:{fields[b'id'].decode()}", "origin").decode() for fields in events]
    first = order[:16]
    assert first.count("toy.high") >= 11  # the others come in to rest beside them, and push nobody aside
    assert first.count("toy.normal") >= 1
    assert first.count("toy.low") >= 1


async def test_a_suspended_worker_takes_nothing(broker: Broker, start_worker: Start, redis: Redis) -> None:
    suspend(redis)
    start_worker()
    job = payload("a boat")
    await broker.submit(job)
    waiting = await broker.wait(job.id, 0.5)
    assert waiting is not None
    assert (waiting.status, waiting.queue_position) == ("queued", 1)
    resume(redis)
    done = await broker.wait(job.id, 10)
    assert done is not None
    assert done.status == "succeeded"


async def test_models_are_those_of_live_workers(broker: Broker, start_worker: Start) -> None:
    assert await broker.models() == []
    first = start_worker(lease_s=1, beat_s=0.3)
    start_worker()
    (model,) = await broker.models()
    assert (model.card.id, model.workers) == ("toy", 2)
    first.kill()  # nobody revokes it: its registration runs out
    for _ in range(300):
        (model,) = await broker.models()
        if model.workers == 1:
            break
        await asyncio.sleep(0.01)
    assert model.workers == 1
