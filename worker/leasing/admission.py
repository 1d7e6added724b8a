"""Takes jobs from the queues, as many as the engine has room for, and hands them over with their images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import uuid4

from redis import Redis

from ldm_core.errors import JobError
from ldm_core.params import MAX_IMAGES
from worker.engine.request import EngineJob
from worker.jobs import FORMAT, PRIORITIES, OtherVersion
from worker.leasing.holdings import Held, Holdings
from worker.metrics import WorkerMetrics
from worker.store import scripts
from worker.store.blobs import BlobStore, checkpoint_name, input_name
from worker.store.connection import AWAY
from worker.store.records import payload_to_run, result_fields, unreadable_problem

log = logging.getLogger(__name__)


class Admission:
    """The worker's side of the queues."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, held: Holdings, metrics: WorkerMetrics,
        *, worker: str, models: Sequence[str], max_rows: int, held_s: float, fail: Callable[[Held, Exception], None],
    ) -> None:  # fmt: skip
        self._redis, self._blobs, self._held, self._metrics, self._fail = redis, blobs, held, metrics, fail
        self._worker, self._held_s = worker, held_s
        self._models = models
        self._max_rows = max_rows
        self._spare = max(2 * MAX_IMAGES, max_rows // 4)  # rows of urgent jobs for which less urgent ones have to rest
        self._turn = self._given_back = 0
        self.closed = False  # a job that must run alone is here, or waits for all others to end

    def admit(self, room: int) -> list[EngineJob]:
        """Leases jobs until `room` rows are filled; the last one may overshoot. Raises what Redis raises.

        Without room only jobs come in whose owner or priority has less than its share here.
        """
        holds = self._held.all()
        self.closed = any(held.alone for held in holds)
        if self.closed:
            return []
        token = uuid4().hex[:16]
        taken, waits = scripts.admit.run(
            self._redis, worker=self._worker, token=token, lease=self._held_s, room=room, turn=self._turn,
            format=FORMAT, held=len(holds), max_rows=self._max_rows, spare=self._spare, models=self._models,
            rows=_rows_by_owner(holds),
        )  # fmt: skip
        self._turn += len(taken)
        before = self._given_back
        jobs = [job for reply in taken if (job := self._prepare(*reply)) is not None]
        self.closed = bool(waits) or any(held.alone for held in self._held.all())
        if self._given_back > before and not jobs:
            raise ConnectionError("the store of pictures does not answer")  # so that the next try waits a moment
        return jobs

    def _prepare(
        self,
        job_id: bytes,
        queue: bytes,
        execution: bytes,
        data: bytes,
        timeout: bytes,
        waited_s: bytes,
        alone: int,
        starts: bytes,
        result_ttl: bytes,
    ) -> EngineJob | None:
        try:
            payload = payload_to_run(data)
        except OtherVersion as error:
            self._park(job_id.decode(), execution.decode(), error)
            return None
        except Exception:  # it would not be any better the next time
            log.exception("a job on queue %s cannot be read", queue.decode(), extra={"job_id": job_id.decode()})
            self._fail_unreadable(job_id.decode(), execution.decode())
            return None
        held = Held(job_id.decode(), execution.decode(), payload, time.monotonic(), float(result_ttl), bool(alone))
        self._held.add(held)
        self._metrics.job_admitted(payload.model, float(waited_s))
        try:
            return self._engine_job(held, time.monotonic() + float(timeout), began=int(starts) > 1)
        except AWAY as error:  # its images are there, only not now
            log.warning("an input picture cannot be read (%s); the job goes back", error, extra=held.context)
            self._give_back(held)
            return None
        except Exception as error:
            self._fail(held, error)
            return None

    def _park(self, job_id: str, execution: str, error: OtherVersion) -> None:
        """Leaves a job to a worker of another version, at no cost."""
        log.warning("left to a worker of another version: %s", error, extra={"job_id": job_id})
        with suppress(*AWAY):  # else its lease ends
            scripts.park.run(self._redis, id=job_id, exe=execution, format=FORMAT)

    def _fail_unreadable(self, job_id: str, execution: str) -> None:
        result = result_fields(job_id, [], "the record cannot be read", self._worker, execution)
        with suppress(*AWAY):  # else its lease ends
            scripts.commit.run(
                self._redis, worker=self._worker, id=job_id, exe=execution, status="failed", retry=False, seconds=0.0,
                images="[]", problem=unreadable_problem(), warnings="[]", result=result,
            )  # fmt: skip

    def _give_back(self, held: Held) -> None:
        """A job that cannot be begun just now, at no cost."""
        self._held.drop(held.key)
        self._given_back += 1
        with suppress(*AWAY):  # else its lease ends
            scripts.requeue.run(self._redis, held=[(held.job_id, held.execution)])

    def _engine_job(self, held: Held, deadline: float, *, began: bool) -> EngineJob:
        payload = held.payload
        return EngineJob(
            id=held.key,
            model=payload.model,
            params=payload.params,
            pictures={name: self._input(input_name(payload.id, name)) for name in payload.inputs},
            checkpoint=self._blobs.get(checkpoint_name(payload.id)) if began else None,
            format=payload.format,
            priority=payload.priority,
            owner=payload.owner,
            weight=payload.weight,
            deadline=deadline,
            request_id=payload.request_id,
        )

    def _input(self, name: str) -> bytes:
        data = self._blobs.get(name)
        if data is None:
            raise JobError("The input picture is no longer stored: the job waited too long, or the store was emptied.")
        return data


def _rows_by_owner(holds: Sequence[Held]) -> dict[str, list[int]]:
    """For each owner the rows of its high, normal and low jobs."""
    rows: dict[str, list[int]] = {}
    for payload in (held.payload for held in holds):
        of_owner = rows.setdefault(payload.owner, [0] * len(PRIORITIES))
        of_owner[PRIORITIES.index(payload.priority)] += payload.params.n * payload.params.rows_per_image
    return rows
