"""Says that this worker lives: leases, entry among RQ's workers, model cards. And watches that it really does."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis import Redis
from rq.defaults import RQ_KEY_PREFIX

from worker import scripts
from worker.blobs import BlobStore, blobs_of
from worker.connection import AWAY, able
from worker.holdings import Holdings
from worker.records import LOST, iso_now, payload_of
from worker.vital import give_up

log = logging.getLogger(__name__)

UNLISTED_S = 10  # a job that has been in no list for this long is put back
SWEEP_EVERY = 12  # beats


class Watchdog:
    """Tells a device that hangs from one that is idle."""

    def __init__(self, limit_s: float, busy: Callable[[], bool], last_step_at: Callable[[], float]) -> None:
        self._limit_s, self._busy, self._last_step_at = limit_s, busy, last_step_at
        self._busy_since: float | None = None

    def hangs(self) -> bool:
        """Whether there is work and nothing has moved for too long."""
        if not self._busy():
            self._busy_since = None
            return False
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        return now - max(self._busy_since, self._last_step_at()) > self._limit_s


class Leases:
    """A thread that beats. It stops beating, and ends the process, when the watchdog says that the device hangs."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, held: Holdings, watchdog: Watchdog,
        *, worker: str, cards: list[dict[str, Any]], lease_s: int, held_s: float, beat_s: float,
        heard: Callable[[list[bytes], list[bytes]], None], register: Callable[[], None],
    ) -> None:  # fmt: skip
        self._redis: Any = redis
        self._blobs, self._held, self._watchdog = blobs, held, watchdog
        self._worker, self._cards = worker, json.dumps(cards)
        self._models = [json.dumps({"id": card["id"], "tasks": card["tasks"]}) for card in cards]
        self._lease_s, self._held_s, self._beat_s = lease_s, held_s, beat_s
        self._heard, self._register = heard, register
        self._closed = threading.Event()
        self._away = False
        self._beats = 0
        self._patient_until = 0.0

    def run(self) -> None:
        """Until `close`."""
        due = time.monotonic() + self._beat_s
        while not self._closed.wait(min(self._beat_s, 1.0)):
            if self._watchdog.hangs():
                log.critical("the device has not finished a step for too long: ending this process")
                with suppress(*AWAY):  # else a supervisor does it, or the leases run out
                    revoke(self._redis, self._worker, crashed=True)
                give_up()
            if time.monotonic() >= due or self._away:
                self.beat()
                due = time.monotonic() + self._beat_s

    def close(self) -> None:
        """Ends `run` within a moment."""
        self._closed.set()

    def beat(self) -> None:
        """Our own leases first: after an outage they have run out, and our own clean-up must not take them."""
        try:
            with able():
                self.announce()
                held = [part for mine in self._held.all() for part in (mine.job_id, mine.execution)]
                if held:
                    self._heard(*scripts.beat.run(self._redis, self._held_s, *held))
                if self._away:  # other workers' leases have run out too: let them come back first
                    self._patient_until = time.monotonic() + self._lease_s
                if time.monotonic() >= self._patient_until:
                    self._clean_up()
        except AWAY as error:
            if not self._away:
                log.warning("Redis is away (%s); running jobs go on", error)
            self._away = True
        else:
            if self._away:
                log.info("Redis is back")
            self._away = False

    def announce(self) -> None:
        """Enters this worker among the living. Raises what Redis raises."""
        self._register()
        with self._redis.pipeline() as pipeline:
            pipeline.set(scripts.worker_key(self._worker), self._cards, ex=self._lease_s)
            pipeline.sadd(scripts.WORKERS, self._worker)
            pipeline.zadd(scripts.KNOWN_MODELS, dict.fromkeys(self._models, time.time()))
            pipeline.zremrangebyscore(scripts.KNOWN_MODELS, 0, time.time() - scripts.KNOWN_S)
            pipeline.execute()

    def retire(self) -> None:
        """Takes this worker from the living. Raises what Redis raises."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(scripts.worker_key(self._worker), scripts.commands_key(self._worker))
            pipeline.srem(scripts.WORKERS, self._worker)
            pipeline.execute()

    def _clean_up(self) -> None:
        recovered, healed = scripts.maintain.run(self._redis, iso_now(), json.dumps(LOST), UNLISTED_S)
        if recovered or healed:
            log.warning("took up %d jobs of lost workers and %d that were in no list", recovered, healed)
        self._delete_litter()
        self._beats += 1
        if self._beats % SWEEP_EVERY == 0:
            self._blobs.sweep()

    def _delete_litter(self) -> None:
        """What belonged to jobs that ended in no worker's hands. One that is missed expires by itself."""
        for job_id in self._redis.lpop(scripts.LITTER, 100) or ():
            data = self._redis.hget(f"{RQ_KEY_PREFIX}:job:{job_id.decode()}", "data")
            try:
                names = blobs_of(payload_of(data)) if data is not None else []
            except Exception:  # a record of another version
                log.exception("a job's record cannot be read", extra={"job_id": job_id.decode()})
            else:
                self._blobs.delete(*names)


def revoke(redis: Redis, worker: str, *, crashed: bool = False) -> int:
    """Gives a dead worker's jobs back to the queues at once; how many it had. Only for one that is surely dead.

    `crashed`: it ended itself, and one of them may be the cause.
    """
    return int(scripts.revoke.run(redis, worker, iso_now(), json.dumps(LOST), int(crashed)))
