"""Pages of an owner's jobs, newest first, and the images of one, as Redis has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from worker.jobs import JobView, Status, UnreadableJob
from worker.store.blobs import output_name
from worker.store.keys import Key
from worker.store.records import UnreadableRecord, view_of

PAGE = 50  # records read at once
PAGES = 40  # at most, for one answer: a rare status may have none in a thousand jobs


async def page_of_jobs(
    redis: Any, owner: str, *, status: Status | None, limit: int, before: float | None
) -> tuple[list[JobView | UnreadableJob], float | None]:
    """At most `limit` jobs, and what to pass as `before` for those that follow; None: there are none."""
    found: list[tuple[JobView | UnreadableJob, float]] = []
    key = Key.JOBS_OF_OWNER.of(owner)
    newest = "+inf" if before is None else f"({before!r}"
    for _ in range(PAGES):
        if len(found) > limit:  # one more tells whether a page follows
            return [view for view, _ in found[:limit]], found[limit - 1][1]
        ids = await redis.zrevrangebyscore(key, newest, "-inf", 0, PAGE, withscores=True)
        if not ids:
            return [view for view, _ in found], None
        async with redis.pipeline(transaction=False) as pipeline:
            for job_id, _ in ids:
                pipeline.hgetall(Key.JOB.of(job_id.decode()))
            pipeline.time()
            *records, (now, _) = await pipeline.execute()
        read = [(job_id, score, record) for (job_id, score), record in zip(ids, records, strict=True)]
        if expired := [job_id for job_id, _, record in read if not record]:
            await redis.zrem(key, *expired)
        views = [(_view(job_id.decode(), record, now), score) for job_id, score, record in read if b"data" in record]
        found += [(view, score) for view, score in views if status in {None, view.status}]
        last = ids[-1][1]
        newest = f"({last!r}"
    return [view for view, _ in found[:limit]], found[limit - 1][1] if len(found) > limit else last


async def image_names(redis: Any, job_id: str) -> list[str]:
    """The blobs of a job's images, in their order; none where there are none (any more)."""
    execution, images = await redis.hmget(Key.JOB.of(job_id), "x_exec", "x_images")
    return [output_name(job_id, execution.decode(), i) for i in range(len(json.loads(images)))] if images else []


def _view(job_id: str, record: Mapping[bytes, bytes], now: float) -> JobView | UnreadableJob:
    try:
        return view_of(job_id, record, now)
    except UnreadableRecord as error:
        return error.job
