"""A queue between threads in which owners take turns."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class OwnerQueue(Generic[T]):
    """`get` returns the oldest item of the owner that was served longest ago. Unbounded, thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}  # of owners with items, in the order of their turns
        self._changed = threading.Condition()
        self._closed = False

    def put(self, owner: str, item: T) -> None:
        """Appends an item to its owner's line."""
        with self._changed:
            self._lines.setdefault(owner, deque()).append(item)
            self._changed.notify()

    def get(self) -> T | None:
        """Takes the next item, and waits for one; None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            if not self._lines:
                return None
            owner, line = next(iter(self._lines.items()))
            item = line.popleft()
            del self._lines[owner]
            if line:
                self._lines[owner] = line  # behind the others
            return item

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._lines

    def close(self) -> None:
        """Lets `get` return None after the last item."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
