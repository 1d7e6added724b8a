"""Caches of the latest results, whose entries for each size of a request share one bound in bytes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Budget:
    """Bounds the bytes of entries in many caches; the one that was used longest ago is dropped first.

    The latest entry of each cache stays, whatever its size: it is what the next call asks for.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: dict[tuple[int, Hashable], tuple[weakref.ref[LRUCache[Any]], int]] = {}  # the latest last
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Of all entries that are still kept."""
        with self._lock:
            self._forget_the_dead()
            return sum(size for _, size in self._entries.values())

    def use(self, owner: LRUCache[Any], key: Hashable, size: int) -> None:
        """Enters `owner`'s entry with its bytes, or says that it was used again."""
        with self._lock:
            known = self._entries.pop((id(owner), key), None)
            self._entries[id(owner), key] = weakref.ref(owner), size
            if known is None or known[1] < size:
                self._shrink()

    def _shrink(self) -> None:
        self._forget_the_dead()
        excess = sum(size for _, size in self._entries.values()) - self.limit
        for (owner_id, key), (reference, size) in list(self._entries.items()):
            owner = reference()
            if excess > 0 and owner is not None and owner.drop(key):
                del self._entries[owner_id, key]
                excess -= size

    def _forget_the_dead(self) -> None:
        for (owner_id, key), (reference, _) in list(self._entries.items()):
            owner = reference()
            if owner is None or key not in owner:
                del self._entries[owner_id, key]


BUDGET = Budget(256 * 2**20)  # beside weights that every size shares


class LRUCache(Generic[T]):
    """Results by key, those of the latest calls only.

    With `size`, which tells the bytes of a result, they count towards BUDGET.
    """

    def __init__(self, size: Callable[[T], int] | None = None) -> None:
        self._kept: dict[Hashable, T] = {}  # the latest last
        self._last: Hashable = None
        self._size = size

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, compute: Callable[[], T], keep: int) -> T:
        """What was computed for this key, or is now; the `keep` latest stay."""
        result = self._kept.pop(key, None)
        if result is None:
            result = compute()
        self._kept[key] = result
        self._last = key
        if self._size is not None:
            BUDGET.use(self, key, self._size(result))
        while len(self._kept) > keep:
            self._kept.pop(next(iter(self._kept)), None)
        return result

    def drop(self, key: Hashable) -> bool:
        """Forgets a result unless it is the latest; whether it is gone."""
        if key == self._last:
            return False
        self._kept.pop(key, None)
        return True

    def __deepcopy__(self, memo: object) -> LRUCache[T]:
        return LRUCache(self._size)  # a copied network computes its own
