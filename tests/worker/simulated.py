"""A device whose time is a number: the scheduler as the engine drives it, with steps that cost what a table says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from ldm_core.sampling.sample import Sample
from tests.worker.engine_kit import job
from worker.engine.owner_queue import OwnerQueue
from worker.engine.request import ImageRun, Request
from worker.engine.scheduler import Scheduler

ROW_S = 0.008 / 64**2  # a pixel of a row
BEGIN_S, DECODE_S = 0.004, 0.03


@dataclass
class Steps:
    """As much of a sample as the scheduler looks at."""

    batch_key: tuple[int, int]
    left: int
    rows: int

    @property
    def done(self) -> bool:
        return self.left == 0


class Device:
    """Runs jobs in simulated seconds; a size's first call takes `first_s` longer. Decoding goes on beside the steps."""

    def __init__(self, max_rows: int = 64, first_s: float = 0.0, call_rows: int = 2) -> None:
        self.scheduler = Scheduler(max_rows, {"scenes": call_rows})
        self.now = 0.0
        self.ended: dict[str, float] = {}  # when, by the job's id
        self.steps: list[list[str]] = []  # the jobs of each step, by image
        self.used: Counter[str] = Counter()  # seconds, by owner
        self.longest_s = 0.0  # of all steps
        self._first_s, self._call_rows = first_s, call_rows
        self._seen: set[tuple[int, int]] = set()
        self._finisher: OwnerQueue[ImageRun] = OwnerQueue()
        self._decoding_until = 0.0
        self._left: dict[str, int] = {}

    def submit(self, name: str, **changes: Any) -> Request:
        request = job(name, **changes)
        self._left[name] = len(request.runs)
        self.scheduler.add(request)
        return request

    def step(self) -> None:
        began = self.now
        for run in self.scheduler.choose(4):
            params = run.request.params
            run.sample = cast(Sample, Steps((params.width, params.height), params.steps, params.rows_per_image))
            self._spend(BEGIN_S)
            self.used[run.request.payload.owner] += BEGIN_S
            self.scheduler.charge_begin(run, BEGIN_S)
        self.steps.append([run.request.key for run in self.scheduler.running])
        for batch in self.scheduler.batches():
            self._step(batch)
        for run in self.scheduler.retire():
            self._finisher.put(run.request.payload.owner, run)
        if not self.scheduler.running:
            self._spend(DECODE_S)
        self.longest_s = max(self.longest_s, self.now - began)

    def run_until(self, holds: Callable[[], bool], limit_s: float = 1000.0) -> float:
        """Steps until that is true; the time then."""
        while not holds():
            assert self.now < limit_s
            self.step()
        return self.now

    def seconds_of(self, name: str, **changes: Any) -> float:
        """How long a job takes that comes now."""
        began = self.now
        self.submit(name, **changes)
        self.run_until(lambda: name in self.ended)
        return self.ended[name] - began

    def _step(self, batch: list[ImageRun]) -> None:
        size = cast(Steps, batch[0].sample).batch_key
        rows = sum(run.rows for run in batch)
        calls = -(-rows // self._call_rows)
        seconds = calls * self._call_rows * size[0] * size[1] * ROW_S
        seconds += self._first_s if size not in self._seen else 0.0
        self._seen.add(size)
        self._spend(seconds)
        self.scheduler.charge_step(batch, seconds)
        for run in batch:
            self.used[run.request.payload.owner] += seconds * run.rows / rows
            cast(Steps, run.sample).left -= 1

    def _spend(self, seconds: float) -> None:
        """Time goes on, and with it the decoding."""
        self.now += seconds
        while not self._finisher.empty() and self._decoding_until + DECODE_S <= self.now:
            run = self._finisher.get()
            assert run is not None
            self._decoding_until = max(self._decoding_until, self.now - DECODE_S) + DECODE_S
            self.used[run.request.payload.owner] += DECODE_S
            self.scheduler.finished(run, DECODE_S)
            self._left[run.request.key] -= 1
            if not self._left[run.request.key]:
                self.ended[run.request.key] = self._decoding_until
