"""What a worker refuses to work with, and what other versions, weights and damaged records do to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.broker.broker import Broker
from tests.worker.processes import WorkerProcess, eventually, payload, rewrite
from worker.jobs import UnreadableJob, abilities
from worker.store import scripts
from worker.store.records import UnreadableRecord
from worker.vital import EXIT_BAD_SETTING, EXIT_OTHER_WEIGHTS

Start = Callable[..., WorkerProcess]
Launch = Callable[..., WorkerProcess]
QUICK = {"lease_s": 2, "beat_s": 0.2}


@pytest.fixture
def launch(redis_url: str, tmp_path: Path) -> Iterator[Launch]:
    """Starts a worker that may well end at once."""
    started: list[WorkerProcess] = []

    def start(**settings: Any) -> WorkerProcess:
        started.append(WorkerProcess(redis_url, tmp_path, **settings))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


async def submit(broker: Broker, **given: Any) -> str:
    return (await broker.submit(payload("a boat", **given))).view.payload.id


def test_a_redis_that_evicts_is_refused_in_a_sentence(
    launch: Launch, redis_config: Callable[[str, object], None]
) -> None:
    redis_config("maxmemory", 500 * 2**20)
    redis_config("maxmemory-policy", "allkeys-lfu")
    worker = launch()
    assert worker.process.wait(30) == EXIT_BAD_SETTING
    said = worker.log.read_text().strip().splitlines()
    assert "allkeys-lfu" in said[-1]
    assert "LDM_ALLOW_EVICTION=1" in said[-1]
    allowed = launch(allow_eviction=1)
    eventually(lambda: "serves toy" in allowed.log.read_text(), 30)
    assert "drops accepted jobs" in allowed.log.read_text()


async def test_a_job_of_a_newer_version_waits_for_a_worker_that_can_read_it(
    broker: Broker, start_worker: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, after = await submit(broker), await submit(broker)
    rewrite(redis, job_id, lambda asked: asked["params"].update(hue=3.0))
    old = start_worker(**QUICK)
    ended = await broker.wait(after, 20)  # what comes behind it is not held up
    assert ended is not None
    assert ended.status == "succeeded"
    eventually(lambda: redis.sismember("ldm:parked", job_id))
    view = await broker.job(job_id)
    assert view is not None
    assert (view.status, view.payload.params.prompt) == ("queued", "a boat")
    assert redis.hmget(f"rq:job:{job_id}", "retries_left", "x_starts") == [b"6", b"0"]
    assert [each.status for each in (await broker.jobs(""))[0] if each] == ["succeeded", "queued"]
    assert scripts.maintain.run(redis, problem="{}", unlisted=0, lease=20) == [0, 0]  # it is where it should be
    assert redis.sismember("ldm:parked", job_id)
    assert "params/hue" in old.log.read_text()
    monkeypatch.setenv("LDM_TEST_NEWER", "1")
    newer = start_worker(**QUICK)
    ended = await broker.wait(job_id, 20)
    assert ended is not None
    assert ended.status == "succeeded"
    assert redis.hget(f"rq:job:{job_id}", "worker_name") == newer.name.encode()
    assert redis.hget(f"rq:job:{job_id}", "retries_left") == b"6"
    assert not redis.exists("ldm:parked", "ldm:due", "ldm:open@toy")


@pytest.mark.parametrize("other", [{"format": "avif"}, {"priority": "urgent"}])
async def test_a_value_that_only_a_newer_version_knows_costs_nothing(
    broker: Broker, start_worker: Start, redis: Redis, other: dict[str, Any]
) -> None:
    job_id, after = await submit(broker), await submit(broker)
    rewrite(redis, job_id, lambda asked: asked.update(other))
    old = start_worker(**QUICK)
    ended = await broker.wait(after, 20)
    assert ended is not None
    assert ended.status == "succeeded"
    assert redis.sismember("ldm:parked", job_id)
    assert redis.hmget(f"rq:job:{job_id}", "status", "retries_left", "x_starts") == [b"queued", b"6", b"0"]
    assert old.process.poll() is None


async def test_a_parked_job_can_be_cancelled(broker: Broker, start_worker: Start, redis: Redis) -> None:
    job_id = await submit(broker)
    rewrite(redis, job_id, lambda asked: asked.update(colours="many"))
    start_worker()
    eventually(lambda: redis.sismember("ldm:parked", job_id))
    assert abilities(["toy"]) in (redis.hget(f"rq:job:{job_id}", "x_declined") or b"").decode()
    cancelled = await broker.cancel(job_id)
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert not redis.exists("ldm:parked", "ldm:open")


async def test_a_damaged_record_fails_once_and_is_shown_as_unreadable(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    job_id = await submit(broker)
    redis.hset(f"rq:job:{job_id}", "data", b"unreadable")
    worker = start_worker()
    sound = await broker.wait(await submit(broker), 20)
    assert sound is not None
    assert sound.status == "succeeded"
    eventually(lambda: redis.hget(f"rq:job:{job_id}", "status") == b"failed")
    assert redis.hmget(f"rq:job:{job_id}", "retries_left", "x_starts") == [b"6", b"1"]
    assert worker.process.poll() is None
    listed, _ = await broker.jobs("")
    assert [each.status for each in listed] == ["succeeded", "failed"]
    assert isinstance(listed[1], UnreadableJob)
    assert (listed[1].id, listed[1].model) == (job_id, "toy")
    with pytest.raises(UnreadableRecord):
        await broker.job(job_id)


async def test_a_card_of_a_newer_version_is_read_as_far_as_it_is_known(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    worker = start_worker(lease_s=60, beat_s=20)
    (card,) = json.loads(redis.get(f"ldm:worker:{worker.name}") or b"")
    redis.set(f"ldm:worker:{worker.name}", json.dumps([card | {"colours": ["red"]}, {"id": "odd"}]))
    assert [(model.card.id, model.workers) for model in await broker.models()] == [("toy", 1)]


def test_other_weights_under_one_id_are_refused(
    start_worker: Start, launch: Launch, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_TEST_WEIGHTS", "a" * 64 + " float32")
    first = start_worker(worker_name="first-host", **QUICK)
    same = start_worker(worker_name="second-host", **QUICK)
    monkeypatch.setenv("LDM_TEST_WEIGHTS", "b" * 64 + " float32")
    other = launch(worker_name="third-host", **QUICK)
    assert other.process.wait(30) == EXIT_OTHER_WEIGHTS
    said = other.log.read_text().strip().splitlines()[-1]
    assert "'toy'" in said
    assert "-host" in said
    assert "aaaaaaaaaaaa" in said
    assert "bbbbbbbbbbbb" in said
    assert not redis.sismember("ldm:workers", "third-host")
    for worker in (first, same):
        assert worker.stop() == 0
    start_worker(worker_name="third-host", **QUICK)  # at once, once they have left


def test_another_dtype_is_only_said(start_worker: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_TEST_WEIGHTS", "a" * 64 + " float32")
    start_worker(worker_name="first-host", **QUICK)
    monkeypatch.setenv("LDM_TEST_WEIGHTS", "a" * 64 + " bfloat16")
    other = start_worker(worker_name="second-host", **QUICK)
    eventually(lambda: "in float32 by worker first-host" in other.log.read_text())
    assert other.log.read_text().count("float32") == 1


async def test_an_owners_index_loses_every_expired_job(broker: Broker, redis: Redis) -> None:
    kept = [await submit(broker, owner="many") for _ in range(120)]  # older than all that expires
    redis.zadd("ldm:jobs:many", {f"expired-{i}": 4e9 + i for i in range(3100)})
    for _ in range(3):
        scripts.maintain.run(redis, problem="{}", unlisted=10, lease=20)
    assert redis.zcard("ldm:jobs:many") < 1.3 * len(kept)
    listed, _ = await broker.jobs("many", limit=100)
    assert len(listed) == 100
    assert set(kept) <= {job_id.decode() for job_id in redis.zrange("ldm:jobs:many", 0, -1)}


async def test_a_reader_trims_what_it_finds_expired(broker: Broker, redis: Redis) -> None:
    kept = await submit(broker, owner="many")
    redis.zadd("ldm:jobs:many", {f"expired-{i}": 4e9 + i for i in range(1500)})
    listed, following = await broker.jobs("many")
    assert ([view.payload.id for view in listed if not isinstance(view, UnreadableJob)], following) == ([kept], None)
    assert redis.zcard("ldm:jobs:many") == 1


async def test_a_job_whose_second_pass_needs_another_model_is_left_to_another_worker(
    broker: Broker, start_worker: Start, redis: Redis
) -> None:
    job_id, after = await submit(broker), await submit(broker)
    rewrite(redis, job_id, lambda asked: asked.update(upscale={"model": "elsewhere", "params": asked["params"]}))
    start_worker(**QUICK)
    ended = await broker.wait(after, 20)
    assert ended is not None
    assert ended.status == "succeeded"
    assert redis.sismember("ldm:parked", job_id)
    assert redis.hmget(f"rq:job:{job_id}", "status", "retries_left", "x_starts") == [b"queued", b"6", b"0"]
