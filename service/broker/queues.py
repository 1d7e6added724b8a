"""How long the queues are, and where in them a job waits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from worker.jobs import PRIORITIES, JobView, UnreadableJob
from worker.store import scripts
from worker.store.keys import Key

OWNED = re.compile(r"@[A-Za-z0-9_-]+$")  # the end of an owner's queue name


Job = TypeVar("Job", JobView, JobView | UnreadableJob)


async def with_positions(redis: Any, views: Sequence[Job]) -> list[Job]:
    """The same jobs; those that wait with their place in the queue."""
    waiting = [view.payload.id for view in views if isinstance(view, JobView) and view.status == "queued"]
    if not waiting:
        return list(views)
    positions = dict(zip(waiting, await scripts.positions.arun(redis, ids=waiting), strict=True))
    return [
        replace(view, queue_position=positions.get(view.payload.id)) if isinstance(view, JobView) else view
        for view in views
    ]


async def depths(redis: Any) -> dict[tuple[str, str], int]:
    """Jobs waiting, by (model, priority), for every queue that was ever used."""
    keys = sorted(key.decode() for key in await redis.smembers(Key.QUEUES))
    async with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.llen(key)
        lengths = await pipeline.execute() if keys else []
    totals: Counter[tuple[str, str]] = Counter()
    for key, length in zip(keys, lengths, strict=True):
        model, _, priority = OWNED.sub("", key.removeprefix(Key.QUEUE)).rpartition(".")
        if priority in PRIORITIES:
            totals[model, priority] += length
    return dict(totals)
