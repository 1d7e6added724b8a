"""The limits of API keys, the state of a key's rate, and the errors that refuse a submission."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ldm_core.errors import LdmError
from worker.jobs import JobView

RETRY_AFTER_S = (1.0, 60.0)
UNMEASURED_RETRY_S = 10.0
REMEMBER_S = 24 * 3600  # an idempotency key, and the record of its job


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The limits of one API key; 0: none."""

    open_jobs: int = 0  # waiting and running at the same time
    rate: int = 0  # jobs per window; all of them may come at once. Refused requests and replays count as jobs
    window_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """A client's Idempotency-Key, hashed, and the fingerprint of the request that came with it."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A key's rate after a submission: it may send `remaining` jobs at once now, the next one in `wait_s` seconds and
    as many as its limit in `reset_s`."""

    limit: int
    remaining: int
    reset_s: float
    wait_s: float = 0.0

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of every answer to a submission."""
        named = {"Limit": self.limit, "Remaining": self.remaining, "Reset": math.ceil(self.reset_s)}
        return {f"RateLimit-{name}": str(value) for name, value in named.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The job of a submission; `replayed`: it was made before, under the same idempotency key."""

    view: JobView
    replayed: bool = False
    pace: Pace | None = None


class Refused(LdmError):
    """A submission that may be tried again after `retry_after` seconds."""

    reason: ClassVar[str]  # for metrics

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class QueueFull(Refused):
    """As many jobs are open as may be. `retry_after`: seconds until a tenth of them should be done."""

    reason = "queue_full"

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(f"the queue is full: {limit} jobs are waiting or running", retry_after)


class TooManyOpen(Refused):
    """The key has as many jobs waiting and running as it may."""

    reason = "open_jobs"

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(f"this key may have {limit} jobs waiting and running at once", retry_after)


class TooFast(Refused):
    """The key is over its rate limit."""

    reason = "rate"

    def __init__(self, pace: Pace, window_s: float, retry_after: float) -> None:
        super().__init__(f"this key may send {pace.limit} jobs in {window_s:g} seconds", retry_after)
        self.pace = pace


class IdempotencyConflict(LdmError):
    """The same Idempotency-Key came with another request."""

    reason = "idempotency"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key came with another request before")


def retry_after(limit: int, jobs: int, in_seconds: float) -> float:
    """Seconds until a tenth of a full queue should be done, where `jobs` of them ended within `in_seconds`."""
    low, high = RETRY_AFTER_S
    if jobs < 2 or in_seconds <= 0:
        return UNMEASURED_RETRY_S
    return min(high, max(low, 0.1 * limit * in_seconds / jobs))
