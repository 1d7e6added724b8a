"""Does something bad again and again, at random moments, while a scenario runs."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import TracebackType


class Trouble:
    """A thread that calls `act` until it has succeeded `times` times, with random pauses between; ended on exit."""

    def __init__(
        self, act: Callable[[], bool], times: int, *, rng: random.Random, pauses_s: tuple[float, float]
    ) -> None:
        self._act, self._times, self._rng, self._pauses_s = act, times, rng, pauses_s
        self.done = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def over(self) -> bool:
        return self.done >= self._times

    def __enter__(self) -> Trouble:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self.over and not self._closed.wait(self._rng.uniform(*self._pauses_s)):
            self.done += self._act()
