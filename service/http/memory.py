"""Bounds the gateway's memory: one budget for all request bodies, and few threads for large ones."""

from __future__ import annotations

import ctypes
from collections import Counter
from contextlib import suppress

from anyio import CapacityLimiter

from service.errors import Problem

# parsing, base64 and images: each thread may hold several times the size of a body
LARGE = CapacityLimiter(4)
UNCOUNTED = 2**16  # bytes of a body that are never refused: large uploads shall not keep small requests out
SHARE = 0.5  # of the budget that one API key may hold
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
MMAP_THRESHOLD = 2**18  # bytes


class BodyBudget:
    """Counts the bytes of all request bodies that the process holds, and those of each API key."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()  # by the name of the key; "" without keys

    def take(self, size: int, key: str) -> None:
        """Raises Problem 503 where the budget, or the key's share of it, would be exceeded."""
        share = self._limit * (SHARE if key else 1)
        if self._held.total() + size > self._limit or self._held[key] + size > share:
            detail = "The server is busy with other large requests; try again in a moment."
            raise Problem(503, detail, headers={"Retry-After": "2", "Connection": "close"})
        self._held[key] += size

    def give_back(self, size: int, key: str) -> None:
        """The opposite of `take`."""
        self._held[key] -= size
        if not self._held[key]:
            del self._held[key]


class HeldBody:
    """What one request's body holds of the budget, until `release`."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget, self._key, self._size, self._held = budget, "", 0, 0

    def add(self, size: int, key: str) -> None:
        """Counts `size` more bytes for `key`. Raises Problem 503."""
        self._size, self._key = self._size + size, key
        more = max(0, self._size - UNCOUNTED) - self._held
        if more > 0:
            self._budget.take(more, key)
            self._held += more

    def release(self) -> None:
        """Gives everything back. May be called twice."""
        if self._held:
            self._budget.give_back(self._held, self._key)
            self._held = 0


def return_freed_blocks() -> None:
    """Makes glibc return every large block to the system when it is freed.

    By default glibc raises its threshold to the largest block seen, and keeps what bodies have taken for good.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
