"""RQ's side of a worker: one identity in RQ's registries, many jobs at once, no fork, no death penalty."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn, Protocol
from uuid import uuid4

from redis import Redis
from redis.exceptions import OutOfMemoryError
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus

from ldm_core.card import ModelCard
from worker.engine.request import EngineJob, Event
from worker.jobs import PRIORITIES, queue_name
from worker.leasing.admission import Admission
from worker.leasing.commit import Clerk
from worker.leasing.doorbell import Doorbell
from worker.leasing.holdings import Holdings
from worker.leasing.leases import Leases, OtherWeights, Watchdog
from worker.metrics import WorkerMetrics
from worker.settings import WorkerSettings
from worker.store import scripts
from worker.store.blobs import BlobStore
from worker.store.connection import AWAY, SOCKET_TIMEOUT_S, able, why
from worker.store.health import Unusable
from worker.vital import EXIT_BAD_SETTING, EXIT_OTHER_WEIGHTS, start_vital

log = logging.getLogger(__name__)

IDLE_S = 1.0  # how often an idle worker looks at the queues without a bell
FLUSH_S = 3.0  # at the end: how long an outcome may wait for a Redis that is away


class Engine(Protocol):
    """What this module needs of `worker.engine.Engine`. Thread-safe."""

    last_step_at: float

    def submit(self, job: EngineJob) -> None: ...
    def cancel(self, job_id: str) -> None: ...
    def look(self, job_id: str) -> None: ...
    def free_rows(self) -> int: ...
    def unfinished(self) -> list[str]: ...
    def run(self) -> None: ...
    def stop(self, drain_s: float) -> list[str]: ...
    def save(self) -> Sequence[Event]: ...


class BatchWorker(BaseWorker):
    """The control loop. Threads: this one, the device (the engine's), the clerk, the leases, the doorbell."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, cards: Mapping[str, ModelCard], metrics: WorkerMetrics,
        settings: WorkerSettings, weights: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:  # fmt: skip
        queues = [queue_name(model, priority) for priority in PRIORITIES for model in cards]
        name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        # RQ would speak to Redis here, which may not be up yet: what it would find out, we do, at the first heartbeat
        super().__init__(queues, name=name, connection=redis, serializer=JSONSerializer, prepare_for_work=False)
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._settings = settings
        self._weights = weights or {}  # of each model the digest of its weights, and its dtype
        self._held = Holdings()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signals = 0
        self._closed = False  # when it last looked for jobs, it could take no more
        self._pause = 0.0
        self._redis, self._blobs, self._cards, self._metrics = redis, blobs, dict(cards), metrics
        self.clerk = Clerk(
            redis, blobs, self._held, metrics,
            worker=name, heard=self._heard,
            settled=self._settled,
        )  # fmt: skip

    @property
    def connection_timeout(self) -> int:
        """RQ would raise our sockets' time-out to minutes."""
        return int(SOCKET_TIMEOUT_S)

    def emit(self, events: Sequence[Event]) -> None:
        """What the engine calls."""
        self.clerk.emit(events)
        self._settled()

    def _settled(self) -> None:
        """Something has moved or gone: where no job could come in, one may now. Else the bells tell of new ones."""
        if self._closed:
            self._wake.put(None)

    def serve(self, engine: Engine) -> None:
        """Works until SIGTERM or SIGINT, then drains. A second signal ends the drain at once."""
        self._engine = engine
        self._set_up()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request_stop)
        if not self._wait_for_redis():
            return
        self.clerk.start()
        device = start_vital("device", engine.run)
        start_vital("leases", self._leases.run)
        start_vital("doorbell", self._doorbell.run)
        log.info("worker %s serves %s", self.name, ", ".join(self._cards))
        while not self._signals:
            self._sleep(self._pause or IDLE_S)
            self._look()
        self._drain(device)

    def request_stop(self, signum: int | None = None, frame: FrameType | None = None) -> None:
        """Asks `serve` to end; safe in a signal handler."""
        self._signals += 1
        self._wake.put(None)

    def request_stop_execution(self, execution_id: str) -> None:
        """`rq`'s command to stop one execution: a cancel."""
        for held in self._held.all():
            if held.execution == execution_id:
                scripts.cancel.run(self._redis, id=held.job_id)

    def _set_up(self) -> None:
        engine, settings, models = self._engine, self._settings, list(self._cards)
        self._admission = Admission(
            self._redis, self._blobs, self._held, self._metrics,
            worker=self.name, models=models, max_rows=settings.max_rows, held_s=settings.held_s, fail=self.clerk.fail,
        )  # fmt: skip
        self._doorbell = Doorbell(
            self._redis, worker=self.name, models=models,
            listening=lambda: engine.free_rows() > 0 and not self._signals,
            ring=lambda: self._wake.put(None), cancel=lambda job_id: self._cancel([job_id]),
        )  # fmt: skip
        watchdog = Watchdog(settings.step_timeout_s, lambda: bool(engine.unfinished()), lambda: engine.last_step_at)
        self._leases = Leases(
            self._redis, self._blobs, self._held, watchdog,
            worker=self.name, cards=[card.to_json() for card in self._cards.values()],
            lease_s=settings.lease_s, held_s=settings.held_s, beat_s=settings.beat_s,
            weights=self._weights, heard=self._heard, register=self._register, give_way=self._give_way,
            allow_eviction=settings.allow_eviction,
        )  # fmt: skip

    def _wait_for_redis(self) -> bool:
        """A worker may be up before its Redis. Whether it is registered there: it may be told to stop before."""
        pause, said = 0.1, ""
        while not self._signals:
            try:
                with able():
                    self._leases.inspect()
                    self._leases.announce()
                self.subscribe()  # type: ignore[no-untyped-call]
                return True
            except AWAY as error:
                if why(error) != said:
                    said = why(error)
                    log.warning("%s; trying again until it lets this worker in", said)
                self._sleep(pause)
                pause = min(2 * pause, 2.0)
            except Unusable as error:
                self._refuse(error, EXIT_BAD_SETTING)
            except OtherWeights as error:
                self._refuse(error, EXIT_OTHER_WEIGHTS)
        return False

    def _refuse(self, error: Exception, code: int) -> NoReturn:
        log.critical("%s", error)
        raise SystemExit(code)

    def _give_way(self, reason: str) -> None:
        """What was in order at the start no longer is: ends as if told to."""
        if not self._signals:
            log.critical("%s", reason)
            self.request_stop()

    def _register(self) -> None:
        """RQ's heartbeat; its register_birth where Redis does not know us, as after a restart without its data."""
        if self.birth_date is None or not self.connection.exists(self.key):
            self._set_ip_address(self.connection)
            self.register_birth()  # type: ignore[no-untyped-call]
            self.set_state(WorkerStatus.IDLE)
        self.heartbeat()

    def _sleep(self, seconds: float) -> None:
        """Until somebody wakes us, at most `seconds`."""
        with suppress(queue.Empty):
            self._wake.get(timeout=seconds)
            while True:
                self._wake.get_nowait()

    def _look(self) -> None:
        """Fills the engine's free rows from the queues."""
        room = self._engine.free_rows()
        try:
            with able():
                if not self._signals:
                    for job in self._admission.admit(room):
                        self._engine.submit(job)
            self._closed = self._admission.closed or self._engine.free_rows() <= 0
            self._pause = 0.0
        except AWAY:
            self._pause = min(max(2 * self._pause, 0.1), 2.0)  # the leases say it in the log

    def _heard(self, cancel: Sequence[bytes], lost: Sequence[bytes], looked: Sequence[bytes] = ()) -> None:
        """What Redis says of our executions: to be cancelled, or no longer ours."""
        self._cancel([job_id.decode() for job_id in cancel])
        for key in self._held.keys_of(job_id.decode() for job_id in looked):
            self._engine.look(key)
        for held in [held for both in lost if (held := self._held.get(both.decode())) is not None]:
            log.warning("a job is no longer this worker's: its lease had run out", extra=held.context)
            self._held.drop(held.key)
            self._engine.cancel(held.key)

    def _cancel(self, job_ids: list[str]) -> None:
        for key in self._held.keys_of(job_ids):
            self._engine.cancel(key)

    def _drain(self, device: threading.Thread) -> None:
        """No new jobs; what runs may go on for a while; the rest is saved and goes back to the front of its queue."""
        self._shutdown_requested_date = now()
        deadline = time.monotonic() + self._settings.drain_s
        while self._engine.unfinished() and self._signals < 2 and time.monotonic() < deadline:
            self._sleep(0.05)
        self._engine.stop(0.0)
        device.join(FLUSH_S)
        if not device.is_alive():
            self.clerk.emit(self._engine.save())
        self._doorbell.close()
        self.clerk.close(FLUSH_S)
        self._leases.close()
        left = [(held.job_id, held.execution) for held in self._held.all()]
        try:
            with able():
                if left:
                    log.info("put %d jobs back", scripts.requeue.run(self._redis, held=left))
                self._leases.retire()
                with suppress(OutOfMemoryError):
                    self.register_death()  # type: ignore[no-untyped-call]
                self.unsubscribe()  # type: ignore[no-untyped-call]
        except AWAY as error:
            log.warning("%s: %d jobs come back when their leases end", why(error), len(left))
