"""A line of those who wait for one of a few things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets `number` of them in at once, in the order of asking."""

    def __init__(self, number: int, patience_s: float) -> None:
        self._free, self._patience_s = asyncio.Semaphore(number), patience_s

    async def take(self) -> None:
        """Waits for its turn, until `give_back`. Raises TimeoutError after `patience_s`."""
        async with asyncio.timeout(self._patience_s):
            await self._free.acquire()

    def give_back(self) -> None:
        """The next one's turn."""
        self._free.release()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Both, around what the turn is for."""
        await self.take()
        try:
            yield
        finally:
            self.give_back()
