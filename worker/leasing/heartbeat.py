"""Renews leases, publishes model cards, and ends the process when the device hangs."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis import Redis

from ldm_core.card import ModelCard
from ldm_core.errors import LdmError
from worker.leasing.in_flight import InFlight
from worker.leasing.inbox import Announced, Inbox, Stop, messages_of
from worker.settings import WorkerSettings
from worker.store import scripts
from worker.store.blobs import BlobStore, blobs_of
from worker.store.connection import AWAY, DENIED, able, why
from worker.store.health import Unusable, inspect
from worker.store.keys import Key
from worker.store.records import LOST, payload_of
from worker.vital import give_up

if TYPE_CHECKING:
    from worker.engine.engine import Engine

log = logging.getLogger(__name__)

UNLISTED_S = 10  # a job that has been in no list for this long is put back
SWEEP_EVERY = 12  # beats; while Redis is away, at each


class OtherWeights(LdmError):
    """A live worker serves other weights under the same model id."""


class Watchdog:
    """Tells a device that hangs from one that is idle."""

    def __init__(self, limit_s: float, engine: Engine) -> None:
        self._limit_s, self._engine = limit_s, engine
        self._busy_since: float | None = None

    def hangs(self) -> bool:
        """Whether there is work and nothing has moved for too long."""
        if not self._engine.unfinished():
            self._busy_since = None
            return False
        now = time.monotonic()
        self._busy_since = self._busy_since or now
        return now - max(self._busy_since, self._engine.last_step_at) > self._limit_s


class Heartbeat:
    """A thread that beats. It stops beating, and ends the process, when the watchdog says that the device hangs."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, in_flight: InFlight, inbox: Inbox, watchdog: Watchdog,
        settings: WorkerSettings, *, worker: str, cards: Sequence[ModelCard], weights: Mapping[str, tuple[str, str]],
        taken: Callable[[], Mapping[str, tuple[int, int]]],
    ) -> None:  # fmt: skip
        """`taken` tells the rows and steps of each model so far."""
        self._redis: Any = redis
        self._blobs, self._in_flight, self._inbox, self._watchdog = blobs, in_flight, inbox, watchdog
        self._worker, self._cards = worker, json.dumps([card.to_json() for card in cards])
        self._models = [json.dumps({"id": card.id, "tasks": card.tasks}) for card in cards]
        self._settings, self._beat_s = settings, settings.beat_s
        self._weights, self._taken = weights, taken
        self._warned = ""
        self._closed = threading.Event()
        self._away = ""  # why, while it is
        self._swept_at = time.monotonic()
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
            self._sweep_files()

    def close(self) -> None:
        """Ends `run` within a moment."""
        self._closed.set()

    def beat(self) -> None:
        """Our own leases first: after an outage they have run out, and our own clean-up must not take them."""
        try:
            with able():
                held = [(lease.job_id, lease.execution) for lease in self._in_flight.all()]
                if held:
                    reply = scripts.beat.run(self._redis, lease=self._settings.held_s, held=held)
                    for message in messages_of(*reply):
                        self._inbox.put(message)
                if self._away:
                    self.inspect()
                self.announce()
                self._inbox.put(Announced())
                if self._away:  # other workers' leases have run out too: let them come back first
                    self._patient_until = time.monotonic() + self._settings.lease_s
                if time.monotonic() >= self._patient_until:
                    self._clean_up()
        except (OtherWeights, Unusable) as error:
            self._inbox.put(Stop(str(error)))
        except AWAY as error:
            if not self._away or (isinstance(error, DENIED) and str(error) != self._away):
                log.warning("%s; running jobs go on", why(error))
            self._away = why(error)
        else:
            if self._away:
                log.info("Redis is back")
            self._away = ""

    def inspect(self) -> None:
        """Looks at how Redis is set up. Raises Unusable where it would lose or refuse jobs, and what Redis raises."""
        inspect(self._redis, allow_eviction=self._settings.allow_eviction)

    def announce(self) -> None:
        """Registers this worker and refreshes its time to live. Raises OtherWeights, and what Redis raises."""
        told = scripts.announce.run(
            self._redis,
            worker=self._worker,
            cards=self._cards,
            taken=json.dumps(self._taken()),
            lease=self._settings.lease_s,
            models=self._models,
            weights=self._weights,
        )
        difference, *where = (part.decode() for part in told) if told else ("",)
        if difference == "weights":
            raise OtherWeights(self._other_weights(*where))
        if difference == "dtype":
            self._warn("model %s is computed in %s by worker %s: its images differ from ours", *where)

    def _other_weights(self, model: str, theirs: str, other: str) -> str:
        ours, _ = self._weights[model]
        return (
            f"model {model!r}: worker {other} serves other weights or settings under this id (digest {theirs[:12]}, "
            f"ours are {ours[:12]}); stop it first, or rename this model's directory"
        )

    def _warn(self, text: str, *values: str) -> None:
        """Once, while it stays the same."""
        if text % values != self._warned:
            self._warned = text % values
            log.warning(text, *values)

    def retire(self) -> None:
        """Removes this worker's registration. Raises what Redis raises."""
        with self._redis.pipeline(transaction=False) as pipeline:  # a full Redis queues up no transaction
            pipeline.delete(*(key.of(self._worker) for key in (Key.CARDS, Key.TAKEN, Key.WEIGHTS, Key.COMMANDS)))
            pipeline.srem(Key.WORKERS, self._worker)
            pipeline.execute()

    def _clean_up(self) -> None:
        recovered, healed = scripts.maintain.run(
            self._redis, problem=json.dumps(LOST), unlisted=UNLISTED_S, lease=self._settings.lease_s
        )
        if recovered or healed:
            log.warning("took up %d jobs of lost workers and %d that were in no list", recovered, healed)
        self._delete_orphans()

    def _sweep_files(self) -> None:
        """Deletes expired blobs even while Redis is away: they may be what fills its disk."""
        if time.monotonic() - self._swept_at >= self._beat_s * (1 if self._away else SWEEP_EVERY):
            self._swept_at = time.monotonic()
            with suppress(OSError):
                self._blobs.sweep()

    def _delete_orphans(self) -> None:
        """Deletes blobs of jobs that ended without a worker (cancelled, overdue, out of retries). Others expire."""
        for job_id in self._redis.lpop(Key.ORPHANS, 100) or ():
            data = self._redis.hget(Key.JOB.of(job_id.decode()), "data")
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
    return int(scripts.revoke.run(redis, worker=worker, problem=json.dumps(LOST), crashed=crashed))
