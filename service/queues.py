"""How long the queues are, and where in them a job waits."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, cast

from rq.defaults import RQ_KEY_PREFIX

from worker import scripts
from worker.jobs import PRIORITIES, Priority, queue_name

OWNED = re.compile(r"@[A-Za-z0-9_-]+$")  # the end of an owner's queue name


async def position(redis: Any, job_id: str, origin: str) -> int | None:
    """1 for the job that the next free worker takes; more urgent queues of the same model go first.

    The queues of one priority take turns, so every other one has as many ahead of it as its own place allows.
    """
    base = origin.rpartition("@")[0] if OWNED.search(origin) else origin
    model, _, priority = base.rpartition(".")
    urgent = [queue_name(model, other) for other in PRIORITIES[: PRIORITIES.index(cast(Priority, priority))]]
    rings = [await redis.lrange(scripts.ring_key(name), 0, -1) for name in [base, *urgent]]
    peers = [name.decode() for name in rings[0] if name.decode() != origin]
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.lpos(_queue_key(origin), job_id)
        for name in [*peers, *(name.decode() for ring in rings[1:] for name in ring)]:
            pipeline.llen(_queue_key(name))
        place, *lengths = await pipeline.execute()
    if place is None:
        return None
    beside, ahead = lengths[: len(peers)], lengths[len(peers) :]
    return int(1 + place + sum(min(length, place) for length in beside) + sum(ahead))


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
