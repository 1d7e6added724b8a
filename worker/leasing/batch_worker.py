"""RQ's side of a worker: one identity in RQ's registries, many jobs at once, no fork, no death penalty."""

from __future__ import annotations

import json
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
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

from redis import Redis
from redis.exceptions import OutOfMemoryError
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus

from ldm_core.card import ModelCard
from ldm_core.errors import DeviceLost
from worker.engine.request import Event
from worker.jobs import PRIORITIES, queue_name
from worker.leasing.admission import Admission
from worker.leasing.heartbeat import Heartbeat, OtherWeights, Watchdog
from worker.leasing.in_flight import InFlight
from worker.leasing.inbox import (
    Announced,
    Cancel,
    DeviceGone,
    Inbox,
    Lost,
    Message,
    PreviewRequested,
    Settled,
    Stop,
    WakeUp,
)
from worker.leasing.result_writer import ResultWriter
from worker.leasing.wake_ups import WakeUps
from worker.metrics import WorkerMetrics
from worker.settings import WorkerSettings
from worker.store import scripts
from worker.store.blobs import BlobStore
from worker.store.connection import AWAY, SOCKET_TIMEOUT_S, able, why
from worker.store.health import Unusable
from worker.store.records import LOST
from worker.vital import EXIT_BAD_SETTING, EXIT_DEVICE_LOST, EXIT_OTHER_WEIGHTS, give_up, start_vital

if TYPE_CHECKING:
    from worker.engine.engine import Engine

log = logging.getLogger(__name__)

IDLE_S = 1.0  # how often an idle worker looks at the queues unasked
FLUSH_S = 3.0  # at the end: how long an outcome may wait for a Redis that is away


class BatchWorker(BaseWorker):
    """The control loop: acts on its inbox, and fills the engine from the queues.

    Beside it run the engine's device thread, the result writer, the heartbeat and the wake-ups.
    """

    def __init__(
        self, redis: Redis, blobs: BlobStore, cards: Mapping[str, ModelCard], metrics: WorkerMetrics,
        settings: WorkerSettings, weights: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:  # fmt: skip
        queues = [queue_name(model, priority) for priority in PRIORITIES for model in cards]
        name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        # RQ would speak to Redis here, which may not be up yet: what it would find out, we do, at the first heartbeat
        super().__init__(queues, name=name, connection=redis, serializer=JSONSerializer, prepare_for_work=False)
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self._redis, self._blobs, self._cards = redis, blobs, dict(cards)
        self._settings = settings
        self._weights = weights or {}  # of each model the digest of its weights, and its dtype
        self._inbox = Inbox()
        self._in_flight = InFlight()
        self._metrics = metrics
        self._results = ResultWriter(redis, blobs, self._in_flight, self._inbox, metrics, worker=name)
        self._admission = Admission(
            redis, blobs, self._in_flight, self._results, metrics,
            worker=name, models=list(cards), max_rows=settings.max_rows, held_s=settings.held_s,
        )  # fmt: skip
        self._stops = 0  # how often it was told to
        self._closed = False  # when it last looked for jobs, it could take no more
        self._look_at = 0.0  # when to look again (monotonic)
        self._pause = 0.0  # until then, where Redis was away

    @property
    def connection_timeout(self) -> int:
        """RQ would raise our sockets' time-out to minutes."""
        return int(SOCKET_TIMEOUT_S)

    def emit(self, events: Sequence[Event]) -> None:
        """What the engine calls. Where no job could come in, one may now; else the wake-ups tell of new ones."""
        self._results.emit(events)
        if self._closed:
            self._inbox.put(WakeUp())

    def serve(self, engine: Engine) -> None:
        """Works until SIGTERM or SIGINT, then drains. A second signal ends the drain at once."""
        self._engine = engine
        self._wake_ups = WakeUps(self._redis, self._inbox, engine, worker=self.name, models=list(self._cards))
        watchdog = Watchdog(self._settings.step_timeout_s, engine)
        self._heartbeat = Heartbeat(
            self._redis, self._blobs, self._in_flight, self._inbox, watchdog,
            self._settings, worker=self.name, cards=list(self._cards.values()), weights=self._weights,
            taken=self._metrics.taken,
        )  # fmt: skip
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.request_stop)
        device = start_vital("device", engine.run, self._on_device_error)
        if not (self._wait_for_engine(watchdog) and self._wait_for_redis()):
            return
        self._results.start()
        start_vital("heartbeat", self._heartbeat.run)
        start_vital("wake-ups", self._wake_ups.run)
        log.info("worker %s serves %s", self.name, ", ".join(self._cards))
        while not self._stops:
            self._receive(self._look_at - time.monotonic())
            if not self._stops and time.monotonic() >= self._look_at:
                self._look()
        self._drain(device)

    def request_stop(self, signum: int | None = None, frame: FrameType | None = None) -> None:
        """Asks `serve` to end; safe in a signal handler."""
        self._inbox.put(Stop())

    def request_stop_execution(self, execution_id: str) -> None:
        """`rq`'s command to stop one execution: a cancel."""
        for lease in self._in_flight.all():
            if lease.execution == execution_id:
                scripts.cancel.run(self._redis, id=lease.job_id)

    def _wait_for_engine(self, watchdog: Watchdog) -> bool:
        """Waits until the engine has warmed up. Returns False if a stop came first; ends the process if it hangs."""
        while not (self._engine.ready.wait(0.05) or self._stops):
            self._receive(0.0)
            if watchdog.hangs():
                log.critical("the device has not finished a step of the warm-up for too long: ending this process")
                give_up()
        return not self._stops

    def _wait_for_redis(self) -> bool:
        """Waits for Redis and registers this worker there. Returns False if a stop came first."""
        pause, said = 0.1, ""
        while not self._stops:
            try:
                with able():
                    self._heartbeat.inspect()
                    self._heartbeat.announce()
                    self._register()
                self.subscribe()  # type: ignore[no-untyped-call]
                return True
            except AWAY as error:
                if why(error) != said:
                    said = why(error)
                    log.warning("%s; trying again until it lets this worker in", said)
                self._receive(pause)
                pause = min(2 * pause, 2.0)
            except Unusable as error:
                self._refuse(error, EXIT_BAD_SETTING)
            except OtherWeights as error:
                self._refuse(error, EXIT_OTHER_WEIGHTS)
        return False

    def _refuse(self, error: Exception, code: int) -> NoReturn:
        log.critical("%s", error)
        raise SystemExit(code)

    def _register(self) -> None:
        """RQ's heartbeat; its register_birth where Redis does not know us, as after a restart without its data."""
        with suppress(OutOfMemoryError):  # what `rq info` shows can wait until there is memory
            if self.birth_date is None or not self.connection.exists(self.key):
                self._set_ip_address(self.connection)
                self.register_birth()  # type: ignore[no-untyped-call]
                self.set_state(WorkerStatus.IDLE)
            self.heartbeat()

    def _receive(self, patience_s: float) -> None:
        """Acts on everything in the inbox; waits for a first message, at most `patience_s`."""
        with suppress(queue.Empty):
            self._act(self._inbox.get(timeout=max(0.0, patience_s)))
            while True:
                self._act(self._inbox.get_nowait())

    def _act(self, message: Message) -> None:
        match message:
            case WakeUp():
                self._wake_up()
            case Cancel(job_id):
                for key in self._in_flight.keys_of(job_id):
                    self._engine.cancel(key)
            case PreviewRequested(job_id):
                for key in self._in_flight.keys_of(job_id):
                    self._engine.request_preview(key)
            case Lost(key):
                self._lose(key)
            case Settled(key):
                self._in_flight.drop(key)
                if self._closed:
                    self._wake_up()
            case Announced():
                with suppress(*AWAY), able():  # else after the next beat
                    self._register()
            case DeviceGone(reason):
                self._end_without_device(reason)
            case Stop(reason):
                self._stop(reason)

    def _wake_up(self) -> None:
        if not self._pause:
            self._look_at = 0.0

    def _lose(self, key: str) -> None:
        lease = self._in_flight.drop(key)
        if lease is not None:
            log.warning("a job is no longer this worker's: its lease had run out", extra=lease.context)
            self._engine.cancel(key)

    def _stop(self, reason: str) -> None:
        """Notes a request to stop. One with a `reason` never counts as the second signal."""
        if reason and self._stops:
            return
        if reason:
            log.critical("%s", reason)
        self._stops += 1

    def _on_device_error(self, error: BaseException) -> None:
        """Called on the device's thread, which ends."""
        if not isinstance(error, DeviceLost):
            give_up()
        self._inbox.put(DeviceGone(str(error)))

    def _end_without_device(self, reason: str) -> NoReturn:
        """Writes down what has ended, gives the other jobs back, and ends the process."""
        log.critical("%s", reason)
        self._results.close(FLUSH_S)
        held = [(lease.job_id, lease.execution) for lease in self._in_flight.all()]
        try:
            count = scripts.surrender.run(self._redis, held=held, problem=json.dumps(LOST))
            log.warning("gave %d jobs back", count)
        except AWAY as away:
            log.warning("%s: %d jobs come back when their leases end", why(away), len(held))
        give_up(EXIT_DEVICE_LOST)

    def _look(self) -> None:
        """Fills the engine's free rows from the queues."""
        try:
            with able():
                for request in self._admission.admit(self._engine.free_rows()):
                    self._engine.submit(request)
            self._closed = self._admission.closed or self._engine.free_rows() <= 0
            self._pause = 0.0
        except AWAY:
            self._pause = min(max(2 * self._pause, 0.1), 1.0)  # the heartbeat says it in the log
        self._look_at = time.monotonic() + (self._pause or IDLE_S)

    def _drain(self, device: threading.Thread) -> None:
        """No new jobs; what runs may go on for a while; the rest is saved and goes back to the front of its queue."""
        self._shutdown_requested_date = now()
        self._wake_ups.draining = True
        deadline = time.monotonic() + self._settings.drain_s
        while self._engine.unfinished() and self._stops < 2 and time.monotonic() < deadline:
            self._receive(0.05)
        self._engine.stop(0.0)
        device.join(FLUSH_S)
        if not device.is_alive():
            self._results.emit(self._engine.save())
        self._wake_ups.close()
        self._results.close(FLUSH_S)
        self._heartbeat.close()
        self._receive(0.0)
        self._leave([(lease.job_id, lease.execution) for lease in self._in_flight.all()])

    def _leave(self, left: list[tuple[str, str]]) -> None:
        """Puts the executions that are left back, and takes this worker from the living."""
        try:
            with able():
                if left:
                    log.info("put %d jobs back", scripts.requeue.run(self._redis, held=left))
                self._heartbeat.retire()
                with suppress(OutOfMemoryError):
                    self.register_death()  # type: ignore[no-untyped-call]
                self.unsubscribe()  # type: ignore[no-untyped-call]
        except AWAY as error:
            log.warning("%s: %d jobs come back when their leases end", why(error), len(left))
