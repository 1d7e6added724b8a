"""Who is in the batch: admits waiting pictures into free rows, groups those that run into U-Net batches. No torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

from worker.jobs import PRIORITIES, Priority
from worker.request import ImageRun, Request

# the order in which priorities are looked at, picture by picture: mostly high first, but nobody waits for ever
TURNS: tuple[tuple[Priority, ...], ...] = (
    PRIORITIES,
    PRIORITIES,
    PRIORITIES,
    ("normal", "low", "high"),
    PRIORITIES,
    PRIORITIES,
    PRIORITIES,
    ("low", "normal", "high"),
)


class Scheduler:
    """Bookkeeping of one device: `max_rows` U-Net rows may run at once, over all models. Not thread-safe."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._waiting: dict[Priority, deque[ImageRun]] = {priority: deque() for priority in PRIORITIES}
        self._turn = 0
        self.running: list[ImageRun] = []

    def add(self, request: Request) -> None:
        """Every picture of a request waits for rows of its own."""
        self._waiting[request.job.priority].extend(request.runs)

    def admit(self, limit: int) -> list[ImageRun]:
        """Moves up to `limit` waiting pictures, as far as rows are free, among the running; they are still to begin."""
        admitted: list[ImageRun] = []
        room = self._max_rows - sum(run.rows for run in self.running)
        while len(admitted) < limit and (queue := self._next_queue()) is not None and queue[0].rows <= room:
            run = queue.popleft()
            room -= run.rows
            self._turn += 1
            admitted.append(run)
        self.running += admitted
        return admitted

    def batches(self) -> list[list[ImageRun]]:
        """The running pictures, grouped by what may share a U-Net call."""
        groups: dict[Hashable, list[ImageRun]] = {}
        for run in self.running:
            assert run.sample is not None
            groups.setdefault((run.request.job.model, run.sample.batch_key), []).append(run)
        return list(groups.values())

    def retire(self) -> list[ImageRun]:
        """Takes out the pictures that have done their last step."""
        done = [run for run in self.running if run.sample is not None and run.sample.done]
        self.running = [run for run in self.running if run not in done]
        return done

    def remove(self, request: Request) -> None:
        """Takes out all pictures of a request."""
        self.running = [run for run in self.running if run.request is not request]
        queue = self._waiting[request.job.priority]
        kept = [run for run in queue if run.request is not request]
        queue.clear()
        queue.extend(kept)

    def has_work(self) -> bool:
        """Whether a picture runs or waits."""
        return bool(self.running) or self._next_queue() is not None

    def rows(self, model: str) -> int:
        """Rows of `model` that run now."""
        return sum(run.rows for run in self.running if run.request.job.model == model)

    def free_rows(self) -> int:
        """Rows for which nobody waits yet; negative when more wait than fit."""
        return self._max_rows - sum(run.rows for run in [*self.running, *self._all_waiting()])

    def _all_waiting(self) -> Iterator[ImageRun]:
        for queue in self._waiting.values():
            yield from queue

    def _next_queue(self) -> deque[ImageRun] | None:
        order = TURNS[self._turn % len(TURNS)]
        return next((self._waiting[priority] for priority in order if self._waiting[priority]), None)
