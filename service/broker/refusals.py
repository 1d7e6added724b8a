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


def refusal_of(kind: bytes, reply: Sequence[bytes], limit: int, quota: Quota) -> LdmError | None:
    """The error for a reply of enqueue.lua, by its kind; None if the job was queued. `limit` is the queue's."""
    match kind:
        case b"full":
            return QueueFull(limit, retry_after(limit, int(reply[0]), float(reply[1])))
        case b"busy":
            return TooManyOpen(quota.open_jobs, UNMEASURED_RETRY_S)
        case b"rate":
            wait = float(reply[0])
            return TooFast(
                Pace(limit=quota.rate, remaining=0, reset_s=wait + quota.window_s), quota.window_s, math.ceil(wait)
            )
        case b"memory":
            return NoRoom(FULL)
        case b"conflict":
            return IdempotencyConflict()
    return None
