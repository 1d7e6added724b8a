"""What a worker holds at this moment: executions of jobs that it has leased and not yet committed."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from worker.jobs import JobPayload


@dataclass(frozen=True, slots=True)
class Held:
    """One execution of a job that this worker has leased."""

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


class Holdings:
    """Every execution that this worker holds, oldest first. Thread-safe."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    def add(self, held: Held) -> None:
        """Notes a fresh lease."""
        with self._lock:
            self._held[held.key] = held

    def get(self, key: str) -> Held | None:
        """The execution with this key, if it is still ours."""
        return self._held.get(key)

    def drop(self, key: str) -> None:
        """Forgets an execution that ended or was taken from us."""
        with self._lock:
            self._held.pop(key, None)

    def all(self) -> list[Held]:
        """A copy."""
        with self._lock:
            return list(self._held.values())

    def keys_of(self, job_ids: Iterable[str]) -> list[str]:
        """The keys under which these jobs are held."""
        wanted = set(job_ids)
        return [held.key for held in self.all() if held.job_id in wanted]

    def __len__(self) -> int:
        return len(self._held)
