"""A job's life as Server-Sent Events: its state when the stream is opened, every change, its end."""

from __future__ import annotations

import asyncio
import math
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import BaseModel

from service.access.links import Links
from service.answers.answers import NO_KEYS, Progress, job_of
from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from service.broker.events import NOTHING, EventId, parse_id
from worker.jobs import TERMINAL, JobView
from worker.store.scripts import PREVIEW_TTL_S

HEARTBEAT_S = 15.0  # shorter than the patience of any proxy
LOOK_AFTER = 4  # heartbeats without an event, then the job is read: an event may have got lost
ASK_S = PREVIEW_TTL_S / 3  # between two times that previews are asked for
AWAY_S = 2.0  # between reads while Redis does not answer
STILL_HERE = b": still here\n\n"


def all_seen(job: JobView, seen: EventId) -> bool:
    """Whether a client that has seen the event `seen` has seen the job's end."""
    return job.status in TERMINAL and parse_id(job.event_id) <= seen


def resume_after(last_event_id: str, job: JobView, newest: EventId) -> EventId:
    """The event that a client has seen last. An id that is none, or is beyond every event so far, counts as NOTHING."""
    seen = parse_id(last_event_id)
    return seen if seen <= max(newest, parse_id(job.event_id)) else NOTHING


@dataclass(frozen=True, slots=True)
class Step:
    """A running job has taken `step` of its `steps`; `preview` is a JPEG, empty where there is no new one."""

    event_id: str
    step: int
    steps: int
    preview: bytes


async def follow(
    broker: Broker, job_id: str, seen: EventId = NOTHING, *, previews: bool = False
) -> AsyncGenerator[JobView | Step | None, None]:
    """Yields what happens to a job after the event `seen`, last the job when it has ended.

    Drops steps that come faster than they are taken, never the end. Yields None after every HEARTBEAT_S without an
    event, so that a client that hung up is noticed. With `previews`, the worker draws some. Ends early where the job
    has expired or the process is about to stop.
    """
    asked_at = -math.inf
    with broker.watch(job_id, steps=True, previews=previews) as watch:
        while not broker.leaving:
            watch.clear()
            try:
                job = await broker.job(job_id)
            except BrokerUnavailable:  # or too many ask it at once
                yield None
                await asyncio.sleep(AWAY_S)
                continue
            if job is None:
                return
            if (now := parse_id(job.event_id)) > seen:
                seen = now
                yield job
            if job.status in TERMINAL:
                return
            silence = 0
            while not watch.moved and silence < LOOK_AFTER:
                if previews and time.monotonic() - asked_at > ASK_S:
                    asked_at = time.monotonic()
                    await broker.preview(job_id)  # asking makes the worker draw previews
                if not await watch.wait(HEARTBEAT_S):
                    yield None
                    silence += 1
                taken = watch.take_step()
                if taken is not None and parse_id(taken[0]) > seen:
                    event_id, step, has_preview = taken
                    seen = parse_id(event_id)
                    yield Step(event_id, step, job.steps, await broker.preview(job_id) if has_preview else b"")


async def event_stream(
    broker: Broker, job_id: str, seen: EventId = NOTHING, *, previews: bool = False, links: Links = NO_KEYS
) -> AsyncGenerator[bytes, None]:
    """Yields what `follow` tells as events, comments where nothing happens. With `previews`, some steps have one."""
    sent = b""
    async with aclosing(follow(broker, job_id, seen, previews=previews)) as happenings:
        async for happened in happenings:
            match happened:
                case None:
                    yield STILL_HERE
                case JobView():
                    name = happened.status if happened.status in TERMINAL else "status"
                    yield _event(happened.event_id, name, job_of(happened, links))
                case Step():
                    new = happened.preview not in {b"", sent}
                    sent = happened.preview if new else sent
                    yield _event(happened.event_id, "progress", _progress(happened, with_preview=new))


def _progress(step: Step, *, with_preview: bool) -> Progress:
    progress = Progress(step=step.step, steps=step.steps, progress=min(1.0, step.step / step.steps))
    if with_preview:
        progress.preview = f"data:image/jpeg;base64,{b64encode(step.preview).decode()}"
    return progress


def _event(event_id: str, name: str, data: BaseModel) -> bytes:
    text = data.model_dump_json(exclude_unset=True)  # has no line break
    return f"id: {event_id}\nevent: {name}\ndata: {text}\n\n".encode()
