"""Who is in the batch: chooses the pictures of every step anew, groups them into U-Net batches. No torch.

A picture that was begun and is not chosen rests: its state is a few small tensors, and it goes on where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from worker.jobs import PRIORITIES, Priority
from worker.request import ImageRun, Request

# the order in which priorities are looked at, step by step: mostly high first, but nobody rests for ever
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
    """Bookkeeping of one device: `max_rows` U-Net rows run at once, over all models. Not thread-safe."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._runs: list[ImageRun] = []  # every picture that is not done, in the order of arrival
        self._turn = 0
        self.running: list[ImageRun] = []  # those of the present step

    def add(self, request: Request) -> None:
        """Every picture of a request waits for rows of its own."""
        self._runs.extend(run for run in request.runs if run.index not in request.done)

    def choose(self, begin_limit: int) -> list[ImageRun]:
        """Chooses the pictures of the next step; returns those of them that are still to begin, at most so many."""
        chosen = self._runs if self._rows(self._runs) <= self._max_rows else self._fair_share()
        fresh = sorted((run for run in chosen if run.sample is None), key=_rank)
        late = set(fresh[begin_limit:])
        self.running = [run for run in chosen if run not in late]
        return fresh[:begin_limit]

    def _fair_share(self) -> list[ImageRun]:
        """As many as there are rows: by priority, and within one an owner's oldest picture in turn with the others'."""
        room = self._max_rows
        chosen: list[ImageRun] = []
        order = TURNS[self._turn % len(TURNS)]
        for priority in order:
            owners: dict[str, deque[ImageRun]] = {}
            for run in self._runs:
                if run.request.job.priority == priority:
                    owners.setdefault(run.request.job.owner, deque()).append(run)
            for run in _in_turns(list(owners.values()), self._turn):
                if run.rows > room and chosen:
                    break
                chosen.append(run)
                room -= run.rows
        self._turn += 1
        return chosen

    def batches(self) -> list[list[ImageRun]]:
        """The pictures of this step, grouped by what may share a U-Net call."""
        groups: dict[Hashable, list[ImageRun]] = {}
        for run in self.running:
            assert run.sample is not None
            if run.sample.done:  # resumed after its last step
                continue
            groups.setdefault((run.request.job.model, run.sample.batch_key), []).append(run)
        return list(groups.values())

    def retire(self) -> list[ImageRun]:
        """Takes out the pictures that have done their last step."""
        done = [run for run in self.running if run.sample is not None and run.sample.done]
        self._drop(set(done))
        return done

    def remove(self, request: Request) -> None:
        """Takes out all pictures of a request."""
        self._drop(set(request.runs))

    def has_work(self) -> bool:
        """Whether a picture is not done."""
        return bool(self._runs)

    def rows(self, model: str) -> int:
        """Rows of `model` in the present step."""
        return self._rows(run for run in self.running if run.request.job.model == model)

    def free_rows(self) -> int:
        """Rows that nobody here can use; negative when pictures rest."""
        return self._max_rows - self._rows(self._runs)

    def _drop(self, gone: set[ImageRun]) -> None:
        self._runs = [run for run in self._runs if run not in gone]
        self.running = [run for run in self.running if run not in gone]

    @staticmethod
    def _rows(runs: Iterable[ImageRun]) -> int:
        return sum(run.rows for run in runs)


def _rank(run: ImageRun) -> int:
    return PRIORITIES.index(run.request.job.priority)


def _in_turns(queues: list[deque[ImageRun]], first: int) -> Iterator[ImageRun]:
    """One of each queue after the other, beginning with another one every time."""
    while queues:
        shift = first % len(queues)
        for queue in queues[shift:] + queues[:shift]:
            yield queue.popleft()
        queues = [queue for queue in queues if queue]
