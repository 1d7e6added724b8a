"""The one reader of the event stream in a gateway process: tells whoever watches a job when something happens to it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from service.broker.end_task import end_task
from worker.store.connection import AWAY, connect_async
from worker.store.keys import Key

log = logging.getLogger(__name__)

EVENT_ID = re.compile(r"(\d{1,20})-(\d{1,20})", re.ASCII)
BLOCK_MS = 1000
AWAY_S = 0.5

EventId = tuple[int, int]  # milliseconds and a counter, as Redis orders its stream
NOTHING: EventId = (0, -1)


def parse_id(text: str) -> EventId:
    """An event's id as Redis orders them; what is none counts as nothing seen."""
    found = EVENT_ID.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else NOTHING


class Watch:
    """The newest event of one job since its watcher last looked. Older ones are dropped, so memory is constant."""

    def __init__(self, steps: bool, previews: bool, only_end: bool) -> None:
        self.wants_steps, self.wants_previews, self.only_end = steps, previews, only_end
        self.moved = False  # its status may have changed: read the job
        self._step: tuple[str, int] | None = None
        self._preview = False  # a new one is stored
        self._happened = asyncio.Event()

    def clear(self) -> None:
        """Forgets what happened so far: the watcher is about to read the job."""
        self.moved, self._step, self._preview = False, None, False
        self._happened.clear()

    async def wait(self, timeout_s: float) -> bool:
        """Until something has happened; whether it has."""
        try:
            await asyncio.wait_for(self._happened.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def take_step(self) -> tuple[str, int, bool] | None:
        """The id of the newest event of a step, the step, and whether a new preview is stored; None for none."""
        step, preview = self._step, self._preview
        self._step, self._preview = None, False
        if not self.moved:
            self._happened.clear()
        return None if step is None else (*step, preview)

    def tell_moved(self) -> None:
        self.moved = True
        self._happened.set()

    def tell_step(self, event_id: str, step: int, *, preview: bool) -> None:
        if self.wants_previews if preview else self.wants_steps:
            self._step = event_id, step
            self._preview |= preview
            self._happened.set()


class EventReader:
    """Follows the stream on a connection of its own and resumes where it was after an outage."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Any = connect_async(redis_url)
        self._watchers: defaultdict[str, set[Watch]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_id = ""
        self.webhook_due = asyncio.Event()  # a job with a webhook has ended, or may have
        self.leaving = False  # the process is about to stop: nobody shall wait any more

    def start(self) -> None:
        """Begins to read; Redis may come later."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._read(), name="event-reader")

    async def close(self) -> None:
        """Ends reading."""
        await end_task(self._task)
        await self._redis.aclose()

    def leave(self) -> None:
        """Ends every wait, from now on. May be called in a signal handler."""
        self.leaving = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_all)

    @property
    def newest(self) -> EventId:
        """The last event that was read."""
        return parse_id(self._last_id)

    def is_beyond(self, event_id: str) -> bool:
        """Whether watchers may have missed what came after this event."""
        return not self._last_id or parse_id(self._last_id) > parse_id(event_id)

    @contextmanager
    def watch(
        self, job_id: str, *, steps: bool = False, previews: bool = False, only_end: bool = False
    ) -> Iterator[Watch]:
        """Reports when the job is queued again, starts or ends; its end alone with `only_end`, its steps with `steps`,
        and with `previews` when there is a new one.

        Enter the watch before reading the job; otherwise an event in between is lost.
        """
        watch = Watch(steps, previews, only_end)
        self._watchers[job_id].add(watch)
        try:
            yield watch
        finally:
            self._watchers[job_id].discard(watch)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _read(self) -> None:
        while True:
            try:
                if not self._last_id:
                    newest = await self._redis.xrevrange(Key.EVENTS, count=1)
                    self._last_id = newest[0][0].decode() if newest else "0-0"
                reply = await self._redis.xread({Key.EVENTS: self._last_id}, block=BLOCK_MS)
                for entry_id, fields in reply[0][1] if reply else ():
                    self._last_id = entry_id.decode()
                    self._tell(self._last_id, fields)
            except AWAY:
                await self._stumbled()
            except Exception:
                log.exception("the event reader stumbled; it goes on")
                await self._stumbled()

    async def _stumbled(self) -> None:
        """The stream may have lost what happened meanwhile, so everyone looks for themselves."""
        await asyncio.sleep(AWAY_S)
        self.webhook_due.set()
        self._tell_all()

    def _tell_all(self) -> None:
        for watches in self._watchers.values():
            for watch in watches:
                watch.tell_moved()

    def _tell(self, event_id: str, fields: Mapping[bytes, bytes]) -> None:
        if fields[b"kind"] != b"progress":
            if b"webhook" in fields:
                self.webhook_due.set()
            for watch in self._watchers.get(fields[b"id"].decode(), ()):
                if fields[b"kind"] == b"end" or not watch.only_end:
                    watch.tell_moved()
            return
        if not self._watchers:
            return
        for job_id, step in json.loads(fields[b"steps"]).items():  # of a whole batch at once
            for watch in self._watchers.get(job_id, ()):
                watch.tell_step(event_id, step, preview=b"preview" in fields)
