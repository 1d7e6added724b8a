"""Takes jobs from the queues, as many as the engine has room for, and hands them over with their images."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

from redis import Redis

from ldm_core.errors import JobError
from ldm_core.params import MAX_IMAGES
from worker.engine.request import Request
from worker.jobs import PRIORITIES, JobPayload, NotHere, abilities
from worker.leasing.in_flight import InFlight, Lease
from worker.leasing.result_writer import ResultWriter
from worker.metrics import WorkerMetrics
from worker.store import scripts
from worker.store.blobs import BlobStore, checkpoint_name, input_name
from worker.store.connection import AWAY
from worker.store.records import payload_to_run, result_fields, unreadable_problem

log = logging.getLogger(__name__)


class Admission:
    """The worker's side of the queues."""

    def __init__(
        self, redis: Redis, blobs: BlobStore, in_flight: InFlight, results: ResultWriter, metrics: WorkerMetrics,
        *, worker: str, models: Sequence[str], max_rows: int, held_s: float,
    ) -> None:  # fmt: skip
        self._redis, self._blobs, self._in_flight = redis, blobs, in_flight
        self._results, self._metrics = results, metrics
        self._worker, self._held_s = worker, held_s
        self._models, self._abilities = models, abilities(models)
        self._max_rows = max_rows
        self._spare = max(2 * MAX_IMAGES, max_rows // 4)  # rows of urgent jobs for which less urgent ones have to rest
        self._turn = 0
        self._images_away = False  # at the last admission
        self.closed = False  # a job that must run alone is here, or waits for all others to end

    def admit(self, room: int) -> list[Request]:
        """Leases jobs until `room` rows are filled; the last one may overshoot. Raises what Redis raises.

        Without room only jobs come in whose owner or priority has less than its share here.
        """
        leases = self._in_flight.all()
        self.closed = any(lease.alone for lease in leases)
        if self.closed:
            return []
        taken, waits = scripts.admit.run(
            self._redis, worker=self._worker, token=uuid4().hex[:16], lease=self._held_s, room=room, turn=self._turn,
            format=self._abilities, held=len(leases), max_rows=self._max_rows, spare=self._spare, models=self._models,
            rows=_rows_by_owner(leases),
        )  # fmt: skip
        self._turn += len(taken)
        self._images_away = False
        requests = [request for reply in taken if (request := self._prepare(*reply)) is not None]
        self.closed = bool(waits) or any(lease.alone for lease in self._in_flight.all())
        if self._images_away and not requests:
            raise ConnectionError("the store of images does not answer")  # so that the next try waits a moment
        return requests

    def _prepare(
        self, job_id: bytes, queue: bytes, execution: bytes, data: bytes, timeout: bytes, waited_s: bytes, alone: int,
        starts: bytes, result_ttl: bytes, preview_requested: int,
    ) -> Request | None:  # fmt: skip
        try:
            payload = self._payload(data)
        except NotHere as error:
            self._park(job_id.decode(), execution.decode(), error)
            return None
        except Exception:  # it would not be any better the next time
            log.exception("a job on queue %s cannot be read", queue.decode(), extra={"job_id": job_id.decode()})
            self._fail_unreadable(job_id.decode(), execution.decode())
            return None
        now = time.monotonic()
        lease = Lease(job_id.decode(), execution.decode(), payload, now, float(result_ttl), bool(alone))
        self._metrics.job_admitted(payload.model, float(waited_s))
        try:
            request = self._request(lease, now + float(timeout), began=int(starts) > 1)
            request.preview_requested = bool(preview_requested)
        except AWAY as error:  # its images are there, only not now
            log.warning("an input image cannot be read (%s); the job goes back", error, extra=lease.context)
            self._give_back(lease)
            return None
        except Exception as error:
            self._in_flight.add(lease)
            self._results.fail(lease, error)
            return None
        self._in_flight.add(lease)
        return request

    def _payload(self, data: bytes) -> JobPayload:
        """Raises NotHere for a job of another version, or whose second pass needs a model that is not served here."""
        payload = payload_to_run(data)
        missing = {each.model for each in payload.passes} - set(self._models)
        if missing:
            raise NotHere(f"model {', '.join(missing)} is not served here")
        return payload

    def _park(self, job_id: str, execution: str, error: NotHere) -> None:
        """Leaves a job to another worker, at no cost."""
        log.warning("left to another worker: %s", error, extra={"job_id": job_id})
        with suppress(*AWAY):  # else its lease ends
            scripts.park.run(self._redis, id=job_id, exe=execution, format=self._abilities)

    def _fail_unreadable(self, job_id: str, execution: str) -> None:
        result = result_fields(job_id, [], "the record cannot be read", self._worker, execution)
        with suppress(*AWAY):  # else its lease ends
            scripts.commit.run(
                self._redis, worker=self._worker, id=job_id, exe=execution, status="failed", retry=False, seconds=0.0,
                images="[]", problem=unreadable_problem(), warnings="[]", result=result,
            )  # fmt: skip

    def _give_back(self, lease: Lease) -> None:
        """Puts back a job that cannot be begun just now, at no cost."""
        self._images_away = True
        with suppress(*AWAY):  # else its lease ends
            scripts.requeue.run(self._redis, held=[(lease.job_id, lease.execution)])

    def _request(self, lease: Lease, deadline: float, *, began: bool) -> Request:
        payload = lease.payload
        return Request(
            lease.key,
            payload,
            encoded={name: self._input(input_name(payload.id, name)) for name in payload.inputs},
            checkpoint=self._blobs.get(checkpoint_name(payload.id)) if began else None,
            deadline=deadline,
        )

    def _input(self, name: str) -> bytes:
        data = self._blobs.get(name)
        if data is None:
            raise JobError("The input image is no longer stored: the job waited too long, or the store was emptied.")
        return data


def _rows_by_owner(leases: Sequence[Lease]) -> dict[str, list[int]]:
    """For each owner the rows of its high, normal and low jobs."""
    rows: dict[str, list[int]] = {}
    for payload in (lease.payload for lease in leases):
        of_owner = rows.setdefault(payload.owner, [0] * len(PRIORITIES))
        of_owner[PRIORITIES.index(payload.priority)] += payload.rows
    return rows
