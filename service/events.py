"""The one reader of the event stream in a gateway process: wakes whoever watches a job when something happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from worker import scripts
from worker.connection import AWAY, connect_async

log = logging.getLogger(__name__)

BLOCK_MS = 1000
AWAY_S = 0.5


class EventReader:
    """Follows the stream on a connection of its own and resumes where it was after an outage."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Any = connect_async(redis_url)
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._last_id = ""
        self._closed = False

    def start(self) -> None:
        """Begins to read; Redis may come later."""
        self._task = asyncio.create_task(self._read(), name="event-reader")

    async def close(self) -> None:
        """Ends reading."""
        self._closed = True  # a cancellation that meets a time-out inside the client can be swallowed there
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.05)
        await self._redis.aclose()

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the job is queued again, starts or ends. Watch first, then read the job."""
        changed = asyncio.Event()
        self._watchers[job_id].add(changed)
        try:
            yield changed
        finally:
            self._watchers[job_id].discard(changed)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _read(self) -> None:
        while not self._closed:
            try:
                if not self._last_id:
                    newest = await self._redis.xrevrange(scripts.EVENTS, count=1)
                    self._last_id = newest[0][0].decode() if newest else "0-0"
                reply = await self._redis.xread({scripts.EVENTS: self._last_id}, block=BLOCK_MS)
                for entry_id, fields in reply[0][1] if reply else ():
                    self._last_id = entry_id.decode()
                    self._wake(fields)
            except AWAY:
                await asyncio.sleep(AWAY_S)  # waiters poll meanwhile
            except Exception:
                log.exception("the event reader stumbled; it goes on")
                await asyncio.sleep(AWAY_S)

    def _wake(self, fields: Mapping[bytes, bytes]) -> None:
        if fields[b"kind"] == b"progress":  # a batch's steps: nobody waits for those
            return
        for changed in self._watchers.get(fields[b"id"].decode(), ()):
            changed.set()
