"""Writes down what became of jobs: images first, then the job's record, then nothing more. Off the device thread."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from redis import Redis

from worker.engine.request import Cancelled, EncodedImage, Event, Failed, Finished, Preview, Progress, Saved
from worker.jobs import CONTENT_TYPES, StoredImage
from worker.leasing.in_flight import InFlight, Lease
from worker.leasing.inbox import Inbox, Settled, messages_of
from worker.metrics import WorkerMetrics
from worker.store import scripts
from worker.store.blobs import BlobStore, blobs_of, checkpoint_name, output_name
from worker.store.connection import AWAY, able
from worker.store.records import problem_of, result_fields
from worker.store.scripts import PREVIEW_TTL_S
from worker.vital import start_vital

log = logging.getLogger(__name__)

T = TypeVar("T")
CHECKPOINT_TTL_S = 86400
PROGRESS_S = 0.02  # between two reports of steps
STATUSES = {Finished: "finished", Failed: "failed", Cancelled: "canceled"}  # as RQ calls them
OUTCOMES = {"finished": "succeeded", "failed": "failed", "canceled": "cancelled", "queued": "retried", "lost": "lost"}


class Abandoned(Exception):
    """Redis stayed away until the worker had to end."""


class ResultWriter:
    """One thread that takes the engine's events. `emit` only queues them, so the device never waits for Redis."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, in_flight: InFlight, inbox: Inbox, metrics: WorkerMetrics, *, worker: str
    ) -> None:
        self._redis, self._blobs, self._in_flight, self._inbox = redis, blobs, in_flight, inbox
        self._metrics, self._worker = metrics, worker
        self._events: queue.SimpleQueue[Sequence[Event] | None] = queue.SimpleQueue()
        self._urgent = threading.Event()  # more is queued than steps
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = start_vital("results", self._run)

    def emit(self, events: Sequence[Event]) -> None:
        """Takes events from the engine."""
        self._events.put(events)
        if not _steps_alone(events):
            self._urgent.set()

    def fail(self, lease: Lease, error: Exception) -> None:
        """Ends a job that failed before the engine saw it."""
        self.emit([Failed(lease.key, error, retryable=False)])

    def close(self, patience_s: float) -> None:
        """Writes what is queued, for `patience_s` more seconds should Redis be away."""
        self._events.put(None)
        self._urgent.set()
        if self._thread is not None:
            self._thread.join(patience_s)
            self._ending.set()
            self._thread.join(patience_s + 5)

    def _run(self) -> None:
        open_ = True
        told_at = 0.0
        while open_:
            batches = [self._events.get()]
            if batches[0] and _steps_alone(batches[0]):  # they may wait for those that come at once
                self._urgent.wait(told_at + PROGRESS_S - time.monotonic())
            self._urgent.clear()
            with suppress(queue.Empty):
                while True:
                    batches.append(self._events.get_nowait())
            open_ = None not in batches
            events = [event for batch in batches if batch for event in batch]
            done = {event.key for event in events if isinstance(event, Finished)}  # the commit reports the last step
            self._progress(event for event in events if isinstance(event, Progress) and event.key not in done)
            told_at = time.monotonic()
            for event in events:
                if isinstance(event, Saved):
                    self._save(event)
                elif isinstance(event, Preview):
                    self._show(event)
                elif not isinstance(event, Progress):
                    self._end(event)

    def _progress(self, events: Iterable[Progress]) -> None:
        """Reports the latest step of every job by one script, and puts its cancels and lost leases into the inbox."""
        steps = {event.key: event.step for event in events}
        held = [(lease, step) for key, step in steps.items() if (lease := self._in_flight.get(key)) is not None]
        if not held:
            return
        with suppress(*AWAY):  # the next step tells the same
            arguments = [(lease.job_id, lease.execution, step) for lease, step in held]
            for message in messages_of(*scripts.progress.run(self._redis, steps=arguments)):
                self._inbox.put(message)

    def _save(self, event: Saved) -> None:
        """Stores a checkpoint before the record names it. If the write fails, a resumed job repeats steps."""
        lease = self._in_flight.get(event.key)
        if lease is None:
            return
        try:
            data = event.encode()
        except Exception:  # its tensors are on a device that may be lost: the device's thread finds out
            log.warning("no checkpoint", extra=lease.context, exc_info=True)
            return
        with suppress(*AWAY), able():
            self._blobs.put(checkpoint_name(lease.job_id), data, CHECKPOINT_TTL_S)
            scripts.saved.run(self._redis, id=lease.job_id, exe=lease.execution, step=event.step)

    def _show(self, event: Preview) -> None:
        """Stores a preview while its key exists, that is, while a client has asked for it recently."""
        lease = self._in_flight.get(event.key)
        if lease is not None:
            with suppress(*AWAY), able():
                scripts.show.run(self._redis, event.data, id=lease.job_id, ttl=PREVIEW_TTL_S)

    def _end(self, event: Finished | Failed | Cancelled) -> None:
        lease = self._in_flight.get(event.key)
        if lease is None:  # taken over by another worker meanwhile
            return
        try:
            became = self._patiently(lambda: self._commit(lease, event))
        except Abandoned:
            log.error("Redis stayed away: the outcome is lost and the job will run again", extra=lease.context)
            return
        self._inbox.put(Settled(lease.key))
        seconds = time.monotonic() - lease.admitted_at
        payload = lease.payload
        self._metrics.job_ended(payload.params.task, payload.model, OUTCOMES[became], seconds)
        log.info("%s %s after %.2f s", payload.params.task, OUTCOMES[became], seconds, extra=lease.context)

    def _patiently(self, write: Callable[[], T]) -> T:
        """Retries the idempotent `write` until it succeeds."""
        pause = 0.1
        while True:
            try:
                with able():
                    return write()
            except AWAY as error:
                if self._ending.is_set():
                    raise Abandoned from error
                log.warning("cannot write an outcome (%s), trying again in %.1f s", error, pause)
                self._ending.wait(pause)
                pause = min(2 * pause, 2.0)

    def _commit(self, lease: Lease, event: Finished | Failed | Cancelled) -> str:
        """Images first, so that a job never says it is done without them."""
        images = self._store(lease, event.images) if isinstance(event, Finished) else []
        warnings = event.warnings if isinstance(event, Finished) else ()
        error = event.error if isinstance(event, Failed) else None
        if error is not None:
            log.warning("failed: %s", error, extra=lease.context, exc_info=error)
        stored = [image.to_json() for image in images]
        told = str(error) if error else None
        became: str = scripts.commit.run(
            self._redis, worker=self._worker, id=lease.job_id, exe=lease.execution, status=STATUSES[type(event)],
            retry=isinstance(event, Failed) and event.retryable, seconds=time.monotonic() - lease.admitted_at,
            images=json.dumps(stored), problem=json.dumps(problem_of(error)) if error else "",
            warnings=json.dumps([warning.to_json() for warning in warnings]),
            result=result_fields(lease.job_id, stored, told, self._worker, lease.execution),
        ).decode()  # fmt: skip
        if became != "finished":
            self._blobs.delete(*(output_name(lease.job_id, lease.execution, i) for i in range(len(images))))
        if became in STATUSES.values():
            self._blobs.delete(*blobs_of(lease.payload))
        return became

    def _store(self, lease: Lease, images: Sequence[EncodedImage]) -> list[StoredImage]:
        for index, image in enumerate(images):
            name = output_name(lease.job_id, lease.execution, index)
            self._blobs.put(name, image.data, lease.result_ttl_s + 60, dear=True)
        content_type = CONTENT_TYPES[lease.payload.format]
        return [
            StoredImage(
                seed=image.seed, width=image.width, height=image.height, content_type=content_type,
                bytes=len(image.data), sha256=hashlib.sha256(image.data).hexdigest(),
            )
            for image in images
        ]  # fmt: skip


def _steps_alone(events: Sequence[Event]) -> bool:
    return all(isinstance(event, Progress) for event in events)
