"""Blocks on Redis for new jobs and cancels, so that the control loop need not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis import Redis

from worker.leasing.inbox import Cancel, Inbox, WakeUp
from worker.store.connection import AWAY, able
from worker.store.keys import Key

if TYPE_CHECKING:
    from worker.engine.engine import Engine

BLOCK_S = 1.0  # how long a wait lasts; retries of other programs leave no token
FULL_S = 0.05  # with no room for a job, how soon to look who has a right to come in all the same


class WakeUps:
    """A thread that blocks on Redis: passes on the tokens of new jobs, and cancels."""

    def __init__(self, redis: Redis, inbox: Inbox, engine: Engine, *, worker: str, models: Sequence[str]) -> None:
        self._redis: Any = redis
        self._inbox, self._engine = inbox, engine
        self._commands = Key.COMMANDS.of(worker)
        self._tokens = [Key.WAKE_UPS.of(model) for model in models]
        self._closed = threading.Event()
        self.draining = False

    def run(self) -> None:
        """Until `close`. A worker that is full, or drains, leaves the tokens to the others."""
        while not self._closed.is_set():
            listening = not self.draining and self._engine.free_rows() > 0
            try:
                with able():
                    reply = self._redis.blpop(
                        [self._commands, *(self._tokens if listening else ())], timeout=BLOCK_S if listening else FULL_S
                    )
            except AWAY:
                self._closed.wait(BLOCK_S)
                continue
            if reply and reply[0].decode() == self._commands:
                self._inbox.put(Cancel(reply[1].decode()))
            elif reply or not listening:  # of a full worker an owner without rows may still have its share
                self._inbox.put(WakeUp())

    def close(self) -> None:
        """Ends `run` within a moment."""
        self._closed.set()
        with suppress(*AWAY), able():  # where Redis refuses that, `run` ends by itself within a second
            self._redis.rpush(self._commands, "")
            self._redis.expire(self._commands, 60)
