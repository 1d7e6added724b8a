"""Who is in the batch: chooses the images of every step anew, groups them into U-Net batches. No torch.

Owners of jobs share the device's time, and each owner's images its share by their priority. An image that was begun and
is not chosen rests: its state is a few small tensors, and it goes on where it was.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from heapq import heapify, heapreplace
from operator import attrgetter

from worker.engine.device_time import DeviceTime
from worker.engine.request import ImageRun, Request
from worker.jobs import PRIORITIES, Priority

# the order in which an owner's priorities are looked at, step by step: mostly high first, but nobody rests for ever
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
STEP_S = 0.2  # about how long a step may take, unless one image takes longer: then a new job has its turn
BACKLOG = 32  # images of an owner that wait to be decoded: with more, the others rest rather than be held in memory


class Scheduler:
    """Bookkeeping of one device: `max_rows` U-Net rows run at once, over all models. Not thread-safe.

    `call_rows` is the number of rows of a U-Net call, by model id; a step of more than one image takes about `step_s`
    seconds at most. A kind of image that was never run before counts as that long, and so has a step for itself.
    """

    def __init__(self, max_rows: int, call_rows: Mapping[str, int] | None = None, step_s: float = STEP_S) -> None:
        self._max_rows, self._call_rows, self._step_s = max_rows, call_rows or {}, step_s
        self._time = DeviceTime(unknown_s=step_s)
        self._runs: list[ImageRun] = []  # every image that is not done, in the order of arrival
        self._finishing: Counter[str] = Counter()  # images that wait to be decoded, by owner
        self._paying: set[ImageRun] = set()  # those of the present step that did not just fill up a call
        self._steps = 0
        self.running: list[ImageRun] = []  # those of the present step

    def add(self, request: Request) -> None:
        """Every image of a request waits for rows of its own."""
        self._time.account(request.payload.owner)
        self._runs.extend(run for run in request.runs if run.index not in request.done)

    def choose(self, begin_limit: int) -> list[ImageRun]:
        """Chooses the images of the next step; returns those of them that are still to begin, at most so many."""
        due = self._due()
        fresh = [run for run in due if run.sample is None]
        late = set(fresh[begin_limit:])
        self._paying = {run for run in due if run not in late}
        self.running = self._filled([run for run in due if run not in late])
        self._steps += 1
        for run in self.running:
            run.stepped = self._steps
        for owner in {run.owner for run in self.running}:
            self._time.account(owner).steps += 1
        return fresh[:begin_limit]

    def _due(self) -> list[ImageRun]:
        """The images that fair queueing runs next, up to the first that is among them already.

        An image's step is due when its owner's virtual time will be once the step is done; the least is next. Fewer
        images where they would take more rows than there are, or longer than a step may.
        """
        lines = self._lines()
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

    def _lines(self) -> dict[str, deque[ImageRun]]:
        """Each owner's images, no more than have rows, in the order in which they run."""
        of: dict[str, list[ImageRun]] = {}
        for run in self._runs:
            of.setdefault(run.owner, []).append(run)
        return {
            owner: self._line(runs, TURNS[self._time.account(owner).steps % len(TURNS)])
            for owner, runs in of.items()
            if self._finishing[owner] < BACKLOG
        }

    def _line(self, runs: list[ImageRun], order: Sequence[Priority]) -> deque[ImageRun]:
        """By priority; the oldest ones, as many as have rows, and of these first who has waited longest for a step."""
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

    def _filled(self, chosen: list[ImageRun]) -> list[ImageRun]:
        """The same, and images that cost nothing: their rows fill up a call that is made anyway."""
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
        """The device was busy so long with an image before its first step."""
        self._time.charge_begin(run, seconds)

    def charge_step(self, batch: Sequence[ImageRun], seconds: float) -> None:
        """The device was busy so long with a step of a batch."""
        self._time.charge_step([run for run in batch if run in self._paying] or batch, seconds)

    def finished(self, run: ImageRun, seconds: float) -> None:
        """An image that was retired is decoded, which took so long."""
        self._finishing[run.owner] -= 1
        self._time.charge([run], seconds)

    def batches(self) -> list[list[ImageRun]]:
        """The images of this step, grouped by what may share a U-Net call."""
        groups: dict[Hashable, list[ImageRun]] = {}
        for run in self.running:
            assert run.sample is not None
            if run.sample.done:  # resumed after its last step
                continue
            groups.setdefault((run.request.payload.model, run.sample.batch_key), []).append(run)
        return list(groups.values())

    def retire(self) -> list[ImageRun]:
        """Takes out the images that have done their last step."""
        done = [run for run in self.running if run.sample is not None and run.sample.done]
        self._finishing.update(run.owner for run in done)
        self._drop(set(done))
        return done

    def remove(self, request: Request) -> None:
        """Takes out all images of a request."""
        self._drop(set(request.runs))

    def has_work(self) -> bool:
        """Whether there is an image that may be stepped."""
        return any(not self._blocked(run) for run in self._runs)

    def rows(self, model: str) -> int:
        """Rows of `model` in the present step."""
        return self._rows(run for run in self.running if run.request.payload.model == model)

    def free_rows(self) -> int:
        """Rows that nobody here can use; negative when images rest."""
        return self._max_rows - self._rows(self._runs)

    def _drop(self, gone: set[ImageRun]) -> None:
        self._runs = [run for run in self._runs if run not in gone]
        self.running = [run for run in self.running if run not in gone]

    @staticmethod
    def _rows(runs: Iterable[ImageRun]) -> int:
        return sum(run.rows for run in runs)
