"""How long the queues are, and where in them a job waits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from rq.defaults import RQ_KEY_PREFIX

from worker import scripts
from worker.jobs import PRIORITIES, JobView, Priority, queue_name

OWNED = re.compile(r"@[A-Za-z0-9_-]+$")  # the end of an owner's queue name


async def with_positions(redis: Any, views: Sequence[JobView]) -> list[JobView]:
    """The same jobs; those that wait with their place in the queue."""
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    for view in views:
        if view.status == "queued":
            payload = view.payload
            waiting[queue_name(payload.model, payload.priority, payload.owner)].append(payload.id)
    places: dict[str, int | None] = {}
    for queue, ids in waiting.items():
        places.update(zip(ids, await _positions(redis, queue, ids), strict=True))
    return [replace(view, queue_position=places.get(view.payload.id)) for view in views]


async def _positions(redis: Any, queue: str, ids: list[str]) -> list[int | None]:
    """1 for the job that the next free worker takes; more urgent queues of the same model go first.

    The queues of one priority take turns, so every other one has as many ahead of a job as its own place allows.
    """
    base = OWNED.sub("", queue)
    model, _, priority = base.rpartition(".")
    urgent = [queue_name(model, other) for other in PRIORITIES[: PRIORITIES.index(cast(Priority, priority))]]
    rings = [await redis.lrange(scripts.ring_key(name), 0, -1) for name in [base, *urgent]]
    peers = [name.decode() for name in rings[0] if name.decode() != queue]
    async with redis.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.lpos(_queue_key(queue), job_id)
        for name in [*peers, *(name.decode() for ring in rings[1:] for name in ring)]:
            pipeline.llen(_queue_key(name))
        told = await pipeline.execute()
    places, lengths = told[: len(ids)], told[len(ids) :]
    beside, ahead = lengths[: len(peers)], sum(lengths[len(peers) :])
    return [
        None if place is None else 1 + place + sum(min(length, place) for length in beside) + ahead for place in places
    ]


async def depths(redis: Any) -> dict[tuple[str, str], int]:
    """Jobs waiting, by (model, priority), for every queue that was ever used."""
    prefix = f"{RQ_KEY_PREFIX}:queue:"
    keys = sorted(key.decode() for key in await redis.smembers(f"{RQ_KEY_PREFIX}:queues"))
    async with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.llen(key)
        lengths = await pipeline.execute() if keys else []
    totals: Counter[tuple[str, str]] = Counter()
    for key, length in zip(keys, lengths, strict=True):
        model, _, priority = OWNED.sub("", key.removeprefix(prefix)).rpartition(".")
        if priority in PRIORITIES:
            totals[model, priority] += length
    return dict(totals)


def _queue_key(name: str) -> str:
    return f"{RQ_KEY_PREFIX}:queue:{name}"
