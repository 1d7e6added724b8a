"""The jobs that a worker has leased and that have not ended here."""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs import JobPayload


@dataclass(frozen=True, slots=True)
class Lease:
    """One execution of a job, this worker's until it ends or the lease runs out."""

    job_id: str
    execution: str
    payload: JobPayload
    admitted_at: float  # monotonic
    result_ttl_s: float
    alone: bool = False  # workers died under it before: nothing may run beside it

    @property
    def key(self) -> str:
        """Names this execution in the engine: a job may come back while its lost execution still winds down."""
        return f"{self.job_id}:{self.execution}"

    @property
    def context(self) -> dict[str, str]:
        """What its log lines carry."""
        return {"job_id": self.job_id, "request_id": self.payload.request_id}


class InFlight:
    """Every lease of this worker, oldest first. The control loop alone adds and drops; any thread looks up.

    Each method is one operation of a dict, which no other thread interrupts.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def add(self, lease: Lease) -> None:
        """Notes a fresh lease."""
        self._leases[lease.key] = lease

    def drop(self, key: str) -> Lease | None:
        """Forgets an execution that ended or was taken from this worker; the lease, if there was one."""
        return self._leases.pop(key, None)

    def get(self, key: str) -> Lease | None:
        """The lease of the execution with this key."""
        return self._leases.get(key)

    def all(self) -> list[Lease]:
        """A copy."""
        return list(self._leases.values())

    def keys_of(self, job_id: str) -> list[str]:
        """The keys under which a job runs here."""
        return [lease.key for lease in self.all() if lease.job_id == job_id]
