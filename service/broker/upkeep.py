"""What a gateway does beside answering: watches Redis' health, refuses jobs that could not be kept, ends long waits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from redis.exceptions import NoPermissionError

from ldm_core.errors import LdmError
from service.broker.end_task import end_task
from service.broker.single_flight import SingleFlight
from worker.jobs import JobPayload
from worker.store import scripts
from worker.store.blobs import BlobStore
from worker.store.connection import AWAY, DENIED, able, address_of
from worker.store.health import UNKNOWN, Evicts, Health, refuse, warn

log = logging.getLogger(__name__)

HEALTH_S = 0.5  # for how long it is believed
SWEEP_S = 5.0
LEASE_S = 20  # of jobs whose leases begin anew because Redis' clock has jumped


FULL = "The memory of Redis is almost full."  # what is left of it is for the jobs that are there


class NoRoom(LdmError):
    """Redis or the disk could not keep another job. Its message may be shown to a client."""

    retry_after = 10.0


class Upkeep:
    """One per gateway process."""

    def __init__(self, redis: Any, blobs: BlobStore, *, redis_url: str, allow_eviction: bool) -> None:
        self._redis, self._blobs, self._allow_eviction = redis, blobs, allow_eviction
        self._address = address_of(redis_url)
        self._health = SingleFlight(self._inspected, HEALTH_S)
        self._warned = False  # since Redis was last away
        self._away = ""  # why it takes nothing from us, while it does not
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look after the queues."""
        self._task = asyncio.create_task(self._run(), name="upkeep")

    async def close(self) -> None:
        """Stops the background task."""
        await end_task(self._task)

    async def health(self) -> Health:
        """Redis' health of a moment ago. Raises what Redis raises."""
        return await self._health.get()

    async def _inspected(self) -> Health:
        try:
            health = Health.of(await self._redis.info("memory"), await self._redis.info("persistence"))
        except NoPermissionError:
            health = UNKNOWN
        except AWAY as error:
            self._warned = False
            self._tell_away(error)
            raise
        if self._away:
            log.info("Redis at %s answers", self._address)
        self._away = ""
        if not self._warned:
            self._warned = True
            warn(health)
        return health

    def _tell_away(self, error: Exception) -> None:
        """Logs each distinct reason once; clients see only that the queue cannot be reached."""
        if isinstance(error, DENIED):
            reason = str(error)
        elif self._away:  # a connection that Redis closes because of a reason that is known says no more
            return
        else:
            reason = f"Redis at {self._address} does not answer"
        if reason != self._away:
            log.error("%s (%s); no jobs are taken meanwhile", reason, error)
        self._away = reason

    async def trouble(self) -> str:
        """Why this service takes no jobs though Redis answers, in a sentence. Raises what Redis raises."""
        health = await self.health()
        with suppress(Evicts):
            refuse(health, allow_eviction=self._allow_eviction)
            return "" if health.writes else "Redis cannot write to its disk, which may be full."
        return f"{health.evicts}."

    async def room(self, input_bytes: int) -> int:
        """Bytes that Redis may take beside a new job's inputs; -1: any number. Raises NoRoom, and what Redis raises."""
        if trouble := await self.trouble() or self._blobs.full():
            raise NoRoom(trouble)
        free = (await self.health()).free
        if free < 0:
            return -1
        if self._blobs.in_redis:
            free -= input_bytes
        if free <= 0:
            raise NoRoom(FULL)
        return free

    async def _run(self) -> None:
        while True:
            try:
                with able():
                    await self.health()
                    await scripts.sweep.arun(self._redis, lease=LEASE_S)
            except AWAY:
                pass  # requests say so
            except Exception:
                log.exception("the queues could not be looked after; the next try is in %g s", SWEEP_S)
            await asyncio.sleep(SWEEP_S)


def largest_images(payload: JobPayload) -> int:
    """Bytes that a job's images can take: those of PNG are no larger than their pixels, the others far smaller."""
    width, height = payload.size
    return payload.params.n * width * height * 3 // (1 if payload.format == "png" else 4)
