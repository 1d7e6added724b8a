"""Waits for Redis to say something, so that the control loop need not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis

from worker.store.connection import AWAY, able
from worker.store.keys import Key

BLOCK_S = 1.0  # how long a wait for the bell lasts; retries of other programs ring no bell
FULL_S = 0.05  # with no room for a job, how soon to look who has a right to come in all the same


class Doorbell:
    """Blocks on Redis so that nobody else has to: wakes the control loop for new jobs, and passes cancels on."""

    def __init__(
        self, redis: Redis, *, worker: str, models: Sequence[str], listening: Callable[[], bool],
        ring: Callable[[], None], cancel: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._redis: Any = redis
        self._commands = Key.COMMANDS.of(worker)
        self._bells = [Key.WAKE_UPS.of(model) for model in models]
        self._listening, self._ring, self._cancel = listening, ring, cancel
        self._closed = threading.Event()

    def run(self) -> None:
        """Until `close`. A full worker leaves the bells to the others."""
        while not self._closed.is_set():
            keys = [self._commands, *(self._bells if self._listening() else ())]
            try:
                with able():
                    reply = self._redis.blpop(keys, timeout=BLOCK_S if len(keys) > 1 else FULL_S)
            except AWAY:
                self._closed.wait(BLOCK_S)
                continue
            if reply and reply[0].decode() == self._commands:
                self._cancel(reply[1].decode())
            elif reply or len(keys) == 1:  # of one that is full, an owner without rows may still have its share
                self._ring()

    def close(self) -> None:
        """Ends `run` within a moment."""
        self._closed.set()
        with suppress(*AWAY), able():  # where Redis refuses that, `run` ends by itself within a second
            self._redis.rpush(self._commands, "")
            self._redis.expire(self._commands, 60)
