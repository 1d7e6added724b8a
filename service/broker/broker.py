"""The gateway's side of the queues: submit, look, wait, cancel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from redis.exceptions import RedisError, ResponseError

from service.access.links import UrlSigner
from service.access.quota import REMEMBER_S, Idempotency, IdempotencyConflict, Pace, Quota, Submitted
from service.access.rates import Rates
from service.broker.availability import BrokerUnavailable, available
from service.broker.choices import Choices
from service.broker.clock import redis_now
from service.broker.events import EventId, EventReader, Watch
from service.broker.fleet import Fleet
from service.broker.listing import image_names, page_of_jobs
from service.broker.queues import depths, with_positions
from service.broker.refusals import refusal_of
from service.broker.signing import Signing
from service.broker.upkeep import Upkeep, largest_images
from service.broker.webhooks import WebhookQueue
from worker.jobs import TERMINAL, JobPayload, JobView, LiveModel, Status, UnreadableJob
from worker.store import scripts
from worker.store.blobs import INPUT_TTL_S, BlobStore, input_name, open_blobs
from worker.store.connection import AWAY, MAX_CONNECTIONS, TURN_S, connect_async
from worker.store.keys import Key
from worker.store.records import JOB_ID, fields_of, new_record, new_view, view_of
from worker.store.turns import Turns

POLL_S = 10.0  # between two reads of a job that a client waits for, should an event be lost; thousands may wait
CANCEL_WAIT_S = 2.0  # a running job leaves its batch within a step
READERS = MAX_CONNECTIONS // 2  # reads of jobs at once, so that thousands of new streams delay no submit
MAX_SUBMITS = MAX_CONNECTIONS // 4  # at once; a queued submit is dropped if its client has disconnected
NO_IMAGES: Mapping[str, bytes] = {}
UNLIMITED = Quota()


class Broker:
    """One per gateway process. Every method raises BrokerUnavailable while Redis is away."""

    def __init__(
        self, *, redis_url: str, data_dir: Path | str, queue_limit: int = 1000, result_ttl_s: int = 3600,
        job_timeout_s: int = 600, queue_ttl_s: int = 3600, allow_eviction: bool = False,
        blobs: BlobStore | None = None,
    ) -> None:  # fmt: skip
        self._redis: Any = connect_async(redis_url)
        self._blobs = blobs or open_blobs(redis_url, data_dir)
        self._events = EventReader(redis_url)
        self._fleet, self._signing, self._choices = Fleet(self._redis), Signing(self._redis), Choices(self._redis)
        self.rates, self.webhooks = Rates(self._redis), WebhookQueue(self._redis, self._events.webhook_due)
        self._readers, self._makers = Turns(READERS, TURN_S), Turns(MAX_SUBMITS, TURN_S)
        self._upkeep = Upkeep(self._redis, self._blobs, redis_url=redis_url, allow_eviction=allow_eviction)
        self._queue_limit, self._queue_ttl_s = queue_limit, queue_ttl_s
        self._result_ttl_s, self._job_timeout_s = result_ttl_s, job_timeout_s

    async def connect(self) -> None:
        """Starts to follow events and to look after the queues. Redis need not be up yet."""
        self._events.start()
        self._upkeep.start()

    async def close(self) -> None:
        """Ends every connection."""
        await self._events.close()
        await self._upkeep.close()
        await self._redis.aclose()

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self._redis.ping())
        except ResponseError:  # MISCONF: it answers, and cannot write
            return True
        except (RedisError, OSError):
            return False

    async def trouble(self) -> str:
        """The reason for refusing jobs while Redis answers, as a sentence, or an empty string."""
        async with available():
            return await self._upkeep.trouble()

    async def models(self, *, recent: bool = False) -> Sequence[LiveModel]:
        """The models of live workers by id, read now or, with `recent`, at most MODELS_S ago."""
        async with available():
            return await (self._fleet.recent_models() if recent else self._fleet.models())

    async def known_models(self) -> Mapping[str, frozenset[str]]:
        """The tasks of every model that a worker served in the last days, by model id, without a live worker too."""
        async with available():
            return await self._fleet.known()

    async def url_signer(self, ttl_s: int) -> UrlSigner:
        """Signs URLs for `ttl_s` seconds, as every gateway does."""
        async with available():
            return await self._signing.signer(ttl_s)

    async def chosen_model(self, owner: str, model: str = "") -> str | None:
        """The model that an owner has chosen, which is `model` from now on if that is given; None without a choice."""
        async with available():
            return await self._choices.chosen(owner, model)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Limits concurrent submits. Waiting submits run in the order of arrival."""
        async with available():
            await self._makers.take()
        try:
            yield
        finally:
            self._makers.give_back()

    async def submit(
        self, payload: JobPayload, images: Mapping[str, bytes] = NO_IMAGES, *, quota: Quota = UNLIMITED,
        idempotency: Idempotency | None = None,
    ) -> Submitted:  # fmt: skip
        """Queues a job with its input images.

        Raises QueueFull, TooManyOpen, TooFast, IdempotencyConflict or NoRoom, and then nothing is kept.
        """
        record = new_record(
            payload, timeout_s=self._job_timeout_s, result_ttl_s=self._result_ttl_s, wait_s=self._queue_ttl_s,
            image_bytes=largest_images(payload) if self._blobs.in_redis else 0,
        )  # fmt: skip
        inputs = {input_name(payload.id, name): data for name, data in images.items()}
        async with available():
            free = await self._upkeep.room(sum(len(data) for data in inputs.values()))
            try:
                for name, data in inputs.items():
                    await asyncio.to_thread(self._blobs.put, name, data, INPUT_TTL_S)
            except BaseException:
                with suppress(Exception):
                    await asyncio.to_thread(self._blobs.delete, *inputs)
                raise
            kind, *reply = await self._enqueue(payload, record, free, quota, idempotency)
        if kind not in {b"queued", b"duplicate"}:
            await self._delete_blobs([*inputs])
        if (refusal := refusal_of(kind, reply, self._queue_limit, quota)) is not None:
            raise refusal
        if kind == b"queued":
            _, position, event_id, remaining, reset_s, created_at = reply
            view = new_view(payload, created_at, position=int(position), event_id=event_id.decode())
            pace = Pace(limit=quota.rate, remaining=int(remaining), reset_s=float(reset_s)) if quota.rate else None
            return Submitted(view=view, pace=pace)
        if kind == b"replay":
            known = await self.job(reply[0].decode())
            if known is None:
                raise BrokerUnavailable("the job of this idempotency key has just expired")
            return Submitted(view=known, replayed=True)
        found = None
        with suppress(BrokerUnavailable):  # it is queued all the same
            found = await self.job(payload.id)
        return Submitted(view=found or new_view(payload, b"", position=None, event_id="0-0"))

    async def remembered(self, owner: str, idempotency: Idempotency) -> JobView | None:
        """The job that this request made before, if it is still there. Raises IdempotencyConflict.

        A shortcut: `submit` repeats the check atomically. Works without a live worker.
        """
        async with available():
            known = await self._redis.hmget(Key.IDEMPOTENCY.of(owner, idempotency.key), "id", "print")
        view = await self.job(known[0].decode()) if known[0] else None
        if view is not None and known[1].decode() != idempotency.fingerprint:
            raise IdempotencyConflict
        return view

    async def _enqueue(
        self, payload: JobPayload, record: Mapping[str, Any], free: int, quota: Quota, idempotency: Idempotency | None
    ) -> list[bytes]:
        enqueue = partial(
            scripts.enqueue.arun, self._redis, record["data"], id=payload.id, queue=record["origin"],
            owner=payload.owner, limit=self._queue_limit, most=quota.open_jobs, rate=quota.rate, window=quota.window_s,
            idem=idempotency.key if idempotency else "", print=idempotency.fingerprint if idempotency else "",
            remember=REMEMBER_S, free=free, bytes=record["x_bytes"], record=fields_of(record),
        )  # fmt: skip
        try:
            return cast("list[bytes]", await enqueue())
        except AWAY:  # perhaps only the reply was lost; the script knows the id then and changes nothing
            return cast("list[bytes]", await enqueue())

    async def jobs(
        self, owner: str, *, status: Status | None = None, limit: int = 20, before: float | None = None
    ) -> tuple[list[JobView | UnreadableJob], float | None]:
        """An owner's jobs, newest first, and what to pass as `before` for those that follow; None: there are none."""
        async with available():
            views, following = await page_of_jobs(self._redis, owner, status=status, limit=limit, before=before)
            return await with_positions(self._redis, views), following

    async def job(self, job_id: str) -> JobView | None:
        """The job as it is now; None for an unknown or expired one. Raises UnreadableRecord."""
        async with available(), self._readers.taken():
            view = await self._read(job_id)
            return (await with_positions(self._redis, [view]))[0] if view else None

    async def _read(self, job_id: str) -> JobView | None:
        """The same without its place in the queue."""
        if not JOB_ID.fullmatch(job_id):
            return None
        async with self._redis.pipeline(transaction=False) as asked:
            asked.hgetall(Key.JOB.of(job_id))
            asked.time()
            record, (seconds, _) = await asked.execute()
        return view_of(job_id, record, seconds) if b"data" in record else None

    async def preview(self, job_id: str) -> bytes:
        """The newest preview of a job, a JPEG, or b"". Each call asks for previews for PREVIEW_TTL_S more seconds."""
        key = Key.PREVIEW.of(job_id)
        with suppress(BrokerUnavailable):
            async with available(), self._redis.pipeline() as asked:
                asked.set(key, b"", nx=True, ex=scripts.PREVIEW_TTL_S)
                asked.getex(key, ex=scripts.PREVIEW_TTL_S)
                return bytes((await asked.execute())[1] or b"")
        return b""

    async def wait(self, job_id: str, timeout_s: float, since: str = "") -> JobView | None:
        """The job as soon as it has ended, or as it is after `timeout_s` or when the process is about to stop.

        `since` is an event at which it had not ended.
        """
        deadline = time.monotonic() + timeout_s
        with self._events.watch(job_id, only_end=True) as watch:
            if since and not self.leaving and not self._events.is_beyond(since):  # no need to look
                await watch.wait(min(timeout_s, POLL_S))
            while (left := deadline - time.monotonic()) > 0 and not self.leaving:
                watch.clear()
                with suppress(BrokerUnavailable):  # it may come back while there is time
                    async with available(), self._readers.taken():
                        view = await self._read(job_id)
                    if view is None or view.status in TERMINAL:
                        return view
                await watch.wait(min(left, POLL_S))
        return await self.job(job_id)

    def leave(self) -> None:
        """Ends every wait, from now on: the process is about to stop. May be called in a signal handler."""
        self._events.leave()

    @property
    def leaving(self) -> bool:
        return self._events.leaving

    @property
    def newest_event(self) -> EventId:
        """The last event of any job that this process has seen."""
        return self._events.newest

    def watch(self, job_id: str, *, steps: bool = False, previews: bool = False) -> AbstractContextManager[Watch]:
        """Hears what happens to a job from now on."""
        return self._events.watch(job_id, steps=steps, previews=previews)

    async def now(self) -> float:
        """The time by Redis' clock, Unix seconds."""
        async with available():
            return await redis_now(self._redis)

    async def image(self, job_id: str, index: int) -> bytes | None:
        """The bytes of a finished image; None where there is none (any more)."""
        if not JOB_ID.fullmatch(job_id):
            return None
        async with available():
            names = await image_names(self._redis, job_id)
            return await asyncio.to_thread(self._blobs.get, names[index]) if 0 <= index < len(names) else None

    async def cancel(self, job_id: str) -> JobView | None:
        """Cancels an open job, deletes the images of a finished one; the job as it is then, None for an unknown one.

        A running job leaves its batch within a step: this waits a moment for it, and may still find it running.
        """
        if not JOB_ID.fullmatch(job_id):
            return None
        async with available():
            was = await scripts.cancel.arun(self._redis, id=job_id)
        if was == b"started":
            return await self.wait(job_id, CANCEL_WAIT_S)
        if was == b"finished":
            await self._delete_images(job_id)
        return await self.job(job_id)

    async def _delete_images(self, job_id: str) -> None:
        async with available():
            if names := await image_names(self._redis, job_id):
                await self._redis.hdel(Key.JOB.of(job_id), "x_images")  # needs no memory
                await self._delete_blobs(names)

    async def _delete_blobs(self, names: list[str]) -> None:
        if names:
            async with available():
                await asyncio.to_thread(self._blobs.delete, *names)

    async def queue_depths(self) -> dict[tuple[str, str], int]:
        """Jobs waiting, by (model, priority), for every queue that was ever used."""
        async with available():
            return await depths(self._redis)
