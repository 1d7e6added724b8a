"""Chooses the images of every step anew and groups them into U-Net batches. No torch.

Owners of jobs share the device's time, and each owner's images share the owner's part by priority. A begun image that
is not chosen is preempted: its state, a few small tensors, stays, and a later step continues from there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from heapq import heapify, heapreplace
from operator import attrgetter

from worker.engine.device_time import DeviceTime
from worker.engine.request import ImageRun, Request
from worker.jobs import PRIORITIES, Priority

# the order of an owner's priorities, step by step: mostly high first, so that low ones are never starved
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
STEP_S = 0.2  # the longest step of more than one image, so that a new job soon has its turn
BACKLOG = 32  # images of an owner that wait to be decoded; with more, the owner's other images are preempted


class Scheduler:
    """Bookkeeping of one device: `max_rows` U-Net rows run at once, over all models. Not thread-safe.

    `call_rows` is the number of rows of a U-Net call, by model id; a step of more than one image takes about `step_s`
    seconds at most. An unmeasured (model, size) is assumed to cost `step_s`, so it runs alone once.
    """

    def __init__(self, max_rows: int, call_rows: Mapping[str, int] | None = None, step_s: float = STEP_S) -> None:
        self._max_rows, self._call_rows, self._step_s = max_rows, call_rows or {}, step_s
        self._time = DeviceTime(unknown_s=step_s)
        self._runs: list[ImageRun] = []  # every image that is not done, in the order of arrival
        self._finishing: Counter[str] = Counter()  # images that wait to be decoded, by owner
        self._charged: set[ImageRun] = set()  # images charged for this step; those that fill padding rows are free
        self._steps = 0
        self.running: list[ImageRun] = []  # the images of the present step

    def add(self, request: Request) -> None:
        """Adds the images of a request that are not done."""
        self._time.account(request.payload.owner)
        self._runs.extend(run for run in request.runs if run.index not in request.done)

    def enter_next_pass(self, run: ImageRun) -> None:
        """Takes back an image that `retire` has returned."""
        self._runs.append(run)

    def choose(self, begin_limit: int) -> list[ImageRun]:
        """Chooses the images of the next step. Returns those that have not begun, at most `begin_limit`."""
        due = self._select_images()
        fresh = [run for run in due if run.sample is None]
        late = set(fresh[begin_limit:])
        self._charged = {run for run in due if run not in late}
        self.running = self._with_free_riders([run for run in due if run not in late])
        self._steps += 1
        for run in self.running:
            run.stepped = self._steps
        for owner in {run.owner for run in self.running}:
            self._time.account(owner).steps += 1
        return fresh[:begin_limit]

    def _select_images(self) -> list[ImageRun]:
        """The images of the next step, in the order of their owners' virtual finish times (weighted fair queueing).

        Ends at the first image that comes up twice, and before one that would exceed the rows or `step_s`.
        """
        lines = self._queues_by_owner()
        self._time.advance(lines)
        due = [(self._time.end(line[0]), owner) for owner, line in lines.items()]
        heapify(due)
        chosen: dict[ImageRun, None] = {}
        room, seconds = self._max_rows, 0.0
        while due:
            end, owner = due[0]
            line = lines[owner]
            run = line[0]
            cost = self._time.cost(run)
            if run in chosen or (chosen and (run.rows > room or seconds + cost > self._step_s)):
                break
            chosen[run] = None
            room, seconds = room - run.rows, seconds + cost
            line.rotate(-1)
            heapreplace(due, (end + self._time.cost(line[0]) / line[0].request.payload.weight, owner))
        return list(chosen)

    def _queues_by_owner(self) -> dict[str, deque[ImageRun]]:
        """Each owner's images in the order in which they run, as many as fit the device's rows."""
        of: dict[str, list[ImageRun]] = {}
        for run in self._runs:
            of.setdefault(run.owner, []).append(run)
        return {
            owner: self._queue_of_owner(runs, TURNS[self._time.account(owner).steps % len(TURNS)])
            for owner, runs in of.items()
            if self._finishing[owner] < BACKLOG
        }

    def _queue_of_owner(self, runs: list[ImageRun], order: Sequence[Priority]) -> deque[ImageRun]:
        """The oldest images that fit, by priority; within a priority first the one that was stepped longest ago."""
        line: list[ImageRun] = []
        room = self._max_rows
        for priority in order:
            first = len(line)
            for run in runs:
                if run.request.payload.priority != priority:
                    continue
                if run.rows > room and line:
                    break
                line.append(run)
                room -= run.rows
            line[first:] = sorted(line[first:], key=attrgetter("stepped"))
        return deque(line)

    def _with_free_riders(self, chosen: list[ImageRun]) -> list[ImageRun]:
        """Adds images whose rows would otherwise be padding of a U-Net call."""
        rows: Counter[Hashable] = Counter()
        for run in chosen:
            rows[run.kind] += run.rows
        free = {run.kind: -rows[run.kind] % self._call_rows.get(run.kind[0], 1) for run in chosen}
        if not any(free.values()):
            return chosen
        room, here = self._max_rows - rows.total(), set(chosen)
        for run in self._runs:
            if run.sample is None or run in here or run.rows > min(room, free.get(run.kind, 0)) or self._blocked(run):
                continue
            chosen.append(run)
            free[run.kind] -= run.rows
            room -= run.rows
        return chosen

    def _blocked(self, run: ImageRun) -> bool:
        return self._finishing[run.owner] >= BACKLOG

    def charge_begin(self, run: ImageRun, seconds: float) -> None:
        """Charges `seconds` of begin time to the image's owner."""
        self._time.charge_begin(run, seconds)

    def charge_step(self, batch: Sequence[ImageRun], seconds: float) -> None:
        """Charges `seconds` of a step to the owners of the batch."""
        self._time.charge_step([run for run in batch if run in self._charged] or batch, seconds)

    def finished(self, run: ImageRun, seconds: float) -> None:
        """Charges `seconds` of decoding to the owner of a retired image."""
        self._finishing[run.owner] -= 1
        self._time.charge([run], seconds)

    def batches(self) -> list[list[ImageRun]]:
        """The images of this step, grouped by batch key."""
        groups: dict[Hashable, list[ImageRun]] = {}
        for run in self.running:
            assert run.sample is not None
            if run.sample.done:  # resumed after its last step
                continue
            groups.setdefault((run.model, run.sample.batch_key), []).append(run)
        return list(groups.values())

    def retire(self) -> list[ImageRun]:
        """Removes and returns the images that have done their last step."""
        done = [run for run in self.running if run.sample is not None and run.sample.done]
        self._finishing.update(run.owner for run in done)
        self._drop(set(done))
        return done

    def remove(self, request: Request) -> None:
        """Removes all images of a request."""
        self._drop(set(request.runs))

    def has_work(self) -> bool:
        """Whether an image can be stepped."""
        return any(not self._blocked(run) for run in self._runs)

    def rows(self, model: str) -> int:
        """Rows of `model` in the present step."""
        return self._rows(run for run in self.running if run.model == model)

    def free_rows(self) -> int:
        """Capacity minus demand, in rows; negative while images are preempted."""
        return self._max_rows - self._rows(self._runs)

    def _drop(self, gone: set[ImageRun]) -> None:
        self._runs = [run for run in self._runs if run not in gone]
        self.running = [run for run in self.running if run not in gone]

    @staticmethod
    def _rows(runs: Iterable[ImageRun]) -> int:
        return sum(run.rows for run in runs)
