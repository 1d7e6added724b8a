"""Deliveries of webhooks in Redis: due with the job's end, in one gateway's hands at a time, and never lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from service.broker.broker import Broker
from tests.worker.processes import payload
from tests.worker.test_recovery import admit, commit, maintain
from worker.leasing.heartbeat import revoke
from worker.store import scripts
from worker.store.keys import Key

HOST, OTHER = "a.example", "b.example:8443"


async def submit(broker: Broker, host: str = HOST) -> str:
    return (await broker.submit(payload("x", webhook=f"https://{host}/hook?token=1"))).view.payload.id


async def ended(broker: Broker, count: int, host: str = HOST) -> list[str]:
    ids = [await submit(broker, host) for _ in range(count)]
    for job_id in ids:
        await broker.cancel(job_id)
    return ids


def claim(redis: Redis, *, lease: float = 20, room: int = 10, each: int = 10, **running: int) -> list[tuple[str, int]]:
    taken, _ = scripts.claim.run(redis, lease=lease, room=room, each=each, running=running)
    return [(job_id.decode(), attempt) for _, job_id, attempt in taken]


def later(redis: Redis) -> float:
    """Seconds until another delivery is due, as a gateway without room is told."""
    return float(scripts.claim.run(redis, lease=20, room=0, each=1, running={})[1])


def settle(redis: Redis, job_id: str, attempt: int, wait: float, host: str = HOST) -> int:
    return int(scripts.settle.run(redis, host=host, id=job_id, attempt=attempt, wait=wait))


def waiting(redis: Redis, host: str = HOST) -> list[str]:
    return [job_id.decode() for job_id in redis.zrange(Key.WEBHOOKS_OF.of(host), 0, -1)]


async def given_back_cancelled(broker: Broker, redis: Redis, job_id: str) -> None:
    taken = admit(redis, "w")[0]
    scripts.cancel.run(redis, id=job_id)
    scripts.requeue.run(redis, held=[[job_id, taken[2].decode()]])


async def parked_cancelled(broker: Broker, redis: Redis, job_id: str) -> None:
    taken = admit(redis, "w")[0]
    scripts.cancel.run(redis, id=job_id)
    scripts.park.run(redis, id=job_id, exe=taken[2].decode(), format="other")


async def revoked_without_retries(broker: Broker, redis: Redis, job_id: str) -> None:
    admit(redis, "w")
    redis.hset(Key.JOB.of(job_id), "retries_left", 0)
    revoke(redis, "w", crashed=True)


async def lost_without_retries(broker: Broker, redis: Redis, job_id: str) -> None:
    taken = admit(redis, "w")[0]
    redis.hset(Key.JOB.of(job_id), "retries_left", 0)
    redis.zadd(Key.LEASES.of(taken[1].decode()), {f"{job_id}:{taken[2].decode()}": 1})
    maintain(redis)


async def overdue(broker: Broker, redis: Redis, job_id: str) -> None:
    redis.zadd(Key.DUE, {job_id: 1})
    scripts.sweep.run(redis, lease=20)


async def ended_by_another_program(broker: Broker, redis: Redis, job_id: str) -> None:
    redis.hset(Key.JOB.of(job_id), "status", "canceled")
    maintain(redis, 0)


async def committed(broker: Broker, redis: Redis, job_id: str) -> None:
    commit(redis, "w", admit(redis, "w")[0])


async def cancelled(broker: Broker, redis: Redis, job_id: str) -> None:
    await broker.cancel(job_id)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (committed, "succeeded"), (cancelled, "cancelled"), (given_back_cancelled, "cancelled"),
        (parked_cancelled, "cancelled"), (revoked_without_retries, "failed"), (lost_without_retries, "failed"),
        (overdue, "failed"), (ended_by_another_program, "cancelled"),
    ],
)  # fmt: skip
async def test_however_a_job_ends_its_webhook_is_due(
    broker: Broker, redis: Redis, end: Callable[..., Any], status: str
) -> None:
    job_id = await submit(broker)
    assert claim(redis) == []
    await end(broker, redis, job_id)
    view = await broker.job(job_id)
    assert view is not None and view.status == status
    assert claim(redis) == [(job_id, 1)]
    assert claim(redis) == []  # it is leased


async def test_a_delivery_is_claimed_again_when_its_lease_is_over(broker: Broker, redis: Redis) -> None:
    (job_id,) = await ended(broker, 1)
    assert claim(redis, lease=-1) == [(job_id, 1)]  # whoever took it is gone at once
    assert claim(redis) == [(job_id, 2)]
    assert settle(redis, job_id, 1, -1) == 0  # who comes back from the dead changes nothing
    assert waiting(redis) == [job_id]
    assert settle(redis, job_id, 2, 5) == 1
    assert 4 < later(redis) < 5
    assert claim(redis) == []
    assert settle(redis, job_id, 2, 0) == 1
    assert claim(redis) == [(job_id, 3)]
    assert settle(redis, job_id, 3, -1) == 1
    assert not redis.exists(Key.WEBHOOKS, Key.WEBHOOKS_OF.of(HOST))
    assert later(redis) == -1


async def test_a_clock_that_is_set_back_delays_no_delivery_and_an_outage_none(broker: Broker, redis: Redis) -> None:
    (job_id,) = await ended(broker, 1)
    assert claim(redis) == [(job_id, 1)]
    now = redis.time()[0]
    for due, looked in ((now + 3605, now + 3600), (now + 5, now - 3600)):
        redis.zadd(Key.WEBHOOKS_OF.of(HOST), {job_id: due})
        redis.zadd(Key.WEBHOOKS, {HOST: due})
        redis.set(Key.CLOCK, looked)
        scripts.sweep.run(redis, lease=20)
        assert 2 < later(redis) <= 5


async def test_no_host_takes_the_room_of_others(broker: Broker, redis: Redis) -> None:
    many, (one,) = await ended(broker, 6), await ended(broker, 1, OTHER)
    assert claim(redis, each=2) == [(many[0], 1), (many[1], 1), (one, 1)]
    assert claim(redis, each=2, **{HOST: 2}) == []
    assert claim(redis, each=3, **{HOST: 2}) == [(many[2], 1)]
    assert claim(redis, room=2) == [(many[3], 1), (many[4], 1)]


async def test_what_is_kept_expires_and_a_job_that_is_gone_is_named_once(broker: Broker, redis: Redis) -> None:
    first, second = await ended(broker, 2)
    assert redis.ttl(Key.WEBHOOKS) > 0 and redis.ttl(Key.WEBHOOKS_OF.of(HOST)) > 0
    redis.delete(Key.JOB.of(first))
    assert claim(redis) == [(first, 0), (second, 1)]
    redis.delete(Key.JOB.of(second))
    assert not redis.exists(Key.JOB.of(first))  # and was not made anew
    assert settle(redis, second, 1, -1) == 1
    assert not redis.exists(Key.WEBHOOKS)


async def test_a_worker_that_knows_no_webhooks_reads_a_job_without_one(broker: Broker) -> None:
    assert "webhook" not in payload("x").to_json()
    assert payload("x", webhook="https://a.example/").to_json()["webhook"] == "https://a.example/"


async def test_a_job_without_a_webhook_costs_redis_nothing(broker: Broker, redis: Redis) -> None:
    """The commands of a submit and a cancel, and what a webhook adds to them."""

    async def calls(**given: str) -> dict[str, int]:
        redis.config_resetstat()
        await broker.cancel((await broker.submit(payload("x", **given))).view.payload.id)
        return {name: int(stat["calls"]) for name, stat in redis.info("commandstats").items()}

    await calls()
    plain, told = await calls(), await calls(webhook="https://a.example/")
    added = {name: told[name] - plain.get(name, 0) for name in told if told[name] != plain.get(name, 0)}
    assert {name: count for name, count in added.items() if name in {"cmdstat_zadd", "cmdstat_zrange"}} == {
        "cmdstat_zadd": 2, "cmdstat_zrange": 1,
    }  # fmt: skip
    assert plain["cmdstat_hmget"] == 1 and "cmdstat_zrange" not in plain
