"""Clocks that are wrong, and one that jumps: durations are those of one process, instants those of Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from service.broker.broker import Broker
from tests.worker.processes import ROOT, WorkerProcess, payload
from tests.worker.test_recovery import admit, submit
from worker.store import scripts
from worker.store.records import unix

Start = Callable[..., WorkerProcess]
HOUR = 3600.0
SHIFTED = "import os, time; real = time.time; time.time = lambda: real() + float(os.environ['LDM_TEST_CLOCK'])"


def test_no_process_tells_another_the_time_by_its_own_clock() -> None:
    asks = re.compile(r"\btime\.time\(|datetime\.(now|utcnow)\(")
    modules = [path for package in ("service", "worker") for path in (ROOT / package).rglob("*.py")]
    assert [path.name for path in modules if asks.search(path.read_text())] == []


@pytest.mark.parametrize(("worker_h", "gateway_h"), [(1, 0), (-1, 0), (0, 1), (0, -1), (-1, 1)])
async def test_a_wrong_clock_costs_nobody_anything(
    broker: Broker, start_worker: Start, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    worker_h: int, gateway_h: int,
) -> None:  # fmt: skip
    (tmp_path / "sitecustomize.py").write_text(SHIFTED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("LDM_TEST_CLOCK", str(worker_h * HOUR))
    start_worker()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + gateway_h * HOUR)
    job = payload("a boat", timeout_s=30, inputs=("image",))
    sent = await broker.submit(job, {"image": b"picture "})
    ended = await broker.wait(job.id, 20)
    assert ended is not None
    assert (ended.status, ended.error, len(ended.images)) == ("succeeded", None, 1)
    assert await broker.image(job.id, 0) == b"picture a boat:7"
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert sent.view.created_at <= ended.started_at <= ended.finished_at
    seconds, _ = redis.time()
    assert abs(ended.finished_at - seconds) < 60
    assert broker._blobs.sweep() == 0
    assert await broker.image(job.id, 0) is not None


@pytest.mark.parametrize("hours", [2, -2])
async def test_when_redis_clock_jumps_leases_and_waits_go_on(
    redis: Redis, redis_url: str, tmp_path: Path, hours: int
) -> None:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path, queue_ttl_s=3600)
    queued, held = await submit(broker, 2)
    scripts.maintain.run(redis, problem="{}", unlisted=10, lease=20)
    admit(redis, "w")
    (both,) = [name for queue in redis.keys("rq:wip:*") for name in redis.zrange(queue, 0, -1)][:1]
    for key in ("ldm:clock", "ldm:due", "rq:wip:toy.normal"):  # as if they had been written before the jump
        shift(redis, key, -hours * HOUR)
    assert scripts.maintain.run(redis, problem="{}", unlisted=10, lease=20)[0] == 0
    lease = redis.zscore("rq:wip:toy.normal", both) - redis.time()[0]
    assert 15 < lease <= 21
    scripts.sweep.run(redis, lease=20)
    statuses = {redis.hget(f"rq:job:{job_id}", "status") for job_id in (queued, held)}
    assert statuses == {b"started"}
    assert all(3500 < due - redis.time()[0] <= 3601 for _, due in redis.zrange("ldm:due", 0, -1, withscores=True))
    await broker.close()


def shift(redis: Redis, key: str, seconds: float) -> None:
    if redis.type(key) == b"string":
        redis.set(key, float(redis.get(key) or 0) + seconds)
    for member, score in redis.zrange(key, 0, -1, withscores=True) if redis.type(key) == b"zset" else ():
        redis.zadd(key, {member: score + seconds})


def test_instants_are_written_as_rq_writes_them(redis: Redis) -> None:
    script = scripts.Script("local t = unpack(arguments)\nreturn iso(t)")
    for seconds in (0.0, 951782400.5, 1709164799.25, 1709251199.0, 1735689599.75, 4102444800.0):
        written = script.run(redis, t=seconds)
        assert unix(written) == seconds
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", written)
