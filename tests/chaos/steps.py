"""Follows the event stream and counts the steps that were computed more than once."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from typing import Any

from worker.store.connection import AWAY, connect
from worker.store.keys import Key


class StepCounter:
    """A thread that reads every event from the start of the stream on. `close` it before asking for numbers."""

    def __init__(self, redis_url: str) -> None:
        self.recomputed = 0
        self.started_at: defaultdict[str, list[float]] = defaultdict(list)  # job -> times at which it began, Unix
        self.queued_at: defaultdict[str, list[float]] = defaultdict(list)
        self.stepped_at: defaultdict[str, list[float]] = defaultdict(list)
        self.ended_at: defaultdict[str, list[float]] = defaultdict(list)
        self._highest: dict[str, int] = {}  # the latest step before any restart is also the highest
        self._restarted: set[str] = set()
        self._redis: Any = connect(redis_url)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def share_recomputed(self) -> float:
        """Of the steps that had to be computed."""
        return self.recomputed / max(1, sum(self._highest.values()))

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._redis.close()

    def _run(self) -> None:
        last = "0-0"
        while not self._closed.is_set():
            try:
                reply = self._redis.xread({Key.EVENTS: last}, block=200, count=500)
            except AWAY:
                time.sleep(0.1)
                continue
            for entry_id, fields in reply[0][1] if reply else ():
                last = entry_id.decode()
                self._take(int(last.split("-")[0]) / 1000, fields)

    def _take(self, at: float, fields: dict[bytes, bytes]) -> None:
        if fields[b"kind"] == b"progress":
            for job_id, step in json.loads(fields[b"steps"]).items():
                self._step(job_id, int(step))
                self.stepped_at[job_id].append(at)
            return
        job_id = fields[b"id"].decode()
        if fields[b"kind"] == b"started":
            self.started_at[job_id].append(at)
            if job_id in self._highest:
                self._restarted.add(job_id)
        elif fields[b"kind"] == b"queued":
            self.queued_at[job_id].append(at)
        else:
            self.ended_at[job_id].append(at)

    def _step(self, job_id: str, step: int) -> None:
        before = self._highest.get(job_id, 0)
        if job_id in self._restarted:
            self._restarted.discard(job_id)
            self.recomputed += max(0, before - step + 1)
        self._highest[job_id] = max(before, step)
