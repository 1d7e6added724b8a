"""Takes jobs from the queues, as many as the engine has room for, and hands them over with their pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

from redis import Redis

from ldm_core.errors import JobError
from worker import scripts
from worker.blobs import BlobStore, input_name
from worker.holdings import Held, Holdings
from worker.jobs import PRIORITIES, queue_name
from worker.metrics import WorkerMetrics
from worker.records import iso_now, payload_of, unix
from worker.request import EngineJob

log = logging.getLogger(__name__)


class Admission:
    """The worker's side of the queues."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, held: Holdings, metrics: WorkerMetrics,
        *, worker: str, models: Sequence[str], lease_s: int, fail: Callable[[Held, Exception], None],
    ) -> None:  # fmt: skip
        self._redis, self._blobs, self._held, self._metrics, self._fail = redis, blobs, held, metrics, fail
        self._worker, self._lease_s = worker, lease_s
        self._width = len(models)
        self._queues = [queue_name(model, priority) for priority in PRIORITIES for model in models]
        self._turn = 0

    def admit(self, room: int) -> list[EngineJob]:
        """Leases jobs until `room` rows are filled; the last one may overshoot. Raises what Redis raises."""
        holds = self._held.all()
        if any(held.alone for held in holds):
            return []
        token = uuid4().hex[:16]
        arguments = (self._worker, token, self._lease_s, room, self._turn, iso_now(), len(holds), self._width)
        taken = scripts.admit.run(self._redis, *arguments, *self._queues)
        self._turn += len(taken)
        return [job for reply in taken if (job := self._prepare(*reply)) is not None]

    def _prepare(
        self,
        job_id: bytes,
        queue: bytes,
        execution: bytes,
        data: bytes,
        timeout: bytes,
        enqueued_at: bytes,
        alone: int,
        saved: bytes,
    ) -> EngineJob | None:
        try:
            payload = payload_of(data)
        except Exception:  # not written by our gateway: leave it to its lease and to RQ's retries
            log.exception("a job on queue %s cannot be read", queue.decode(), extra={"job_id": job_id.decode()})
            return None
        held = Held(job_id.decode(), execution.decode(), payload, time.monotonic(), bool(alone))
        self._held.add(held)
        self._metrics.job_admitted(time.time() - (unix(enqueued_at) or time.time()))
        try:
            return self._engine_job(held, time.time() + float(timeout))
        except Exception as error:
            self._fail(held, error)
            return None

    def _engine_job(self, held: Held, deadline: float) -> EngineJob:
        payload = held.payload
        return EngineJob(
            id=held.key,
            model=payload.model,
            params=payload.params,
            pictures={name: self._input(input_name(payload.id, name)) for name in payload.inputs},
            format=payload.format,
            priority=payload.priority,
            deadline=deadline,
            request_id=payload.request_id,
        )

    def _input(self, name: str) -> bytes:
        data = self._blobs.get(name)
        if data is None:
            raise JobError("The input picture is no longer stored: the job waited too long, or the store was emptied.")
        return data
