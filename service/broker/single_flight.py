"""A reading that many requests want at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The result of `read`, at most `max_age_s` seconds old. Concurrent callers share one read.

    Without this, each of N concurrent requests would read Redis.
    """

    def __init__(self, read: Callable[[], Coroutine[Any, Any, T]], max_age_s: float) -> None:
        self._read, self._max_age_s = read, max_age_s
        self._reading: asyncio.Task[T] | None = None
        self._read_at = 0.0  # monotonic

    async def get(self) -> T:
        """The value. Raises what `read` raises; the next one to ask tries again."""
        if self._reading is None or (self._reading.done() and self._is_old()):
            self._read_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_failed)  # looks at the error, also where all who asked have gone
        return await asyncio.shield(self._reading)  # whoever hangs up ends nobody else's reading

    def _is_old(self) -> bool:
        assert self._reading is not None
        return _failed(self._reading) or time.monotonic() - self._read_at >= self._max_age_s


def _failed(reading: asyncio.Task[Any]) -> bool:
    return reading.cancelled() or reading.exception() is not None
