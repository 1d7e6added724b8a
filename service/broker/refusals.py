"""What the script that enqueues answered, as the error that a client is refused with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ldm_core.errors import LdmError
from service.access.quota import (
    UNMEASURED_RETRY_S,
    IdempotencyConflict,
    Pace,
    QueueFull,
    Quota,
    TooFast,
    TooManyOpen,
    retry_after,
)
from service.broker.upkeep import FULL, NoRoom


def refusal_of(kind: bytes, told: Sequence[bytes], limit: int, quota: Quota) -> LdmError | None:
    """What the answer of the script that enqueues means where it did not; `limit` is that of the queue."""
    match kind:
        case b"full":
            return QueueFull(limit, retry_after(limit, int(told[0]), float(told[1])))
        case b"busy":
            return TooManyOpen(quota.open_jobs, UNMEASURED_RETRY_S)
        case b"rate":
            wait = float(told[0])
            return TooFast(
                Pace(limit=quota.rate, remaining=0, reset_s=wait + quota.window_s), quota.window_s, math.ceil(wait)
            )
        case b"memory":
            return NoRoom(FULL)
        case b"conflict":
            return IdempotencyConflict()
    return None
