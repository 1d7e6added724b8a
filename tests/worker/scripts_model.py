"""What the scripts should do to jobs, in plain Python: `test_scripts_property` holds them against it."""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs import PRIORITIES, queue_name
from worker.store.records import MAX_RETRIES

OWNERS = ("", "shop")
BASES = [queue_name("toy", priority) for priority in PRIORITIES]
QUEUES = [queue_name("toy", priority, owner) for priority in PRIORITIES for owner in OWNERS]
MAX_ROWS, SPARE = 5, 3  # rows that run at once, and those that urgent jobs may have beyond them
CRASH, ERROR, KILL = 4, 2, 1  # what the death of a worker costs its jobs of their retries
ENDED = {"finished", "failed", "canceled"}
TURNS = {3: (1, 2, 0), 7: (2, 1, 0)}  # of every eight jobs one is taken from normal first and one from low


@dataclass
class Job:
    """What should be true of a job. `execution` is the last one that it had."""

    id: str
    queue: str
    rows: int
    status: str = "queued"
    execution: str = ""
    worker: str = ""
    retries: int = MAX_RETRIES
    saved: int = 0  # the step of its last checkpoint
    resumed: int = 0  # that of the checkpoint from which its present execution began
    cancelled: bool = False
    webhook: bool = False
    parked: bool = False  # queued, and in no list: a worker of another version is to take it

    @property
    def owner(self) -> str:
        return owner_in(self.queue)


class Jobs:
    """All jobs, and the lists in which the queued ones wait."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.lists: dict[str, list[str]] = {queue: [] for queue in QUEUES}
        self.rings: dict[str, list[str]] = {base: [] for base in BASES}  # whose turn it is, by priority

    def open(self) -> set[str]:
        return {job.id for job in self.jobs.values() if job.status not in ENDED}

    def full(self, owner: str, limit: int) -> bool:
        """Whether there is no place for an owner's job: a quarter is kept for named ones below an equal share."""
        opened = [self.jobs[job_id] for job_id in self.open()]
        share = limit / (len({job.owner for job in self.jobs.values()}) + 1)
        sated = bool(owner) and sum(job.owner == owner for job in opened) >= share
        return len(opened) >= limit - (limit // 4 if sated else 0)

    def owns(self, job_id: str, execution: str) -> bool:
        job = self.jobs[job_id]
        return job.status == "started" and job.execution == execution

    def ended_by(self, job_id: str, execution: str) -> bool:
        job = self.jobs[job_id]
        return job.status in ENDED and job.execution == execution

    def end(self, job: Job, outcome: str, cost: int = ERROR) -> str:
        """A flaky end is worth another try, while there are any left."""
        if outcome == "flaky" and job.retries >= cost:
            job.retries -= cost
            self.to_front(job)
        else:
            job.status = "failed" if outcome == "flaky" else outcome
        return job.status

    def lose(self, job: Job, cost: int) -> None:
        """Its worker is gone. A kill costs nothing where the job had moved on: then it cannot be the cause."""
        moved = cost == KILL and job.saved > job.resumed
        self.end(job, "canceled" if job.cancelled else "flaky", 0 if moved else cost)

    def park(self, job: Job) -> None:
        job.status, job.parked = ("canceled", False) if job.cancelled else ("queued", True)

    def unpark(self) -> None:
        for job in [job for job in self.jobs.values() if job.parked]:
            job.parked = False
            self.to_front(job)

    def submit(self, job: Job) -> None:
        self.jobs[job.id] = job
        self.lists[job.queue].append(job.id)
        self.take_turns(job.queue, front=False)

    def to_front(self, job: Job) -> None:
        job.status = "queued"
        self.lists[job.queue].insert(0, job.id)
        self.take_turns(job.queue, front=True)

    def take_turns(self, queue: str, *, front: bool) -> None:
        """Each queue has one place in its ring; it gives that up when it is found empty."""
        ring = self.rings[queue.partition("@")[0]]
        if queue not in ring:
            ring.insert(0 if front else len(ring), queue)

    def next_of(self, queue: str) -> str | None:
        """Takes the next job out of its list; the queue goes behind the others in its ring."""
        ring = self.rings[queue.partition("@")[0]]
        ring.remove(queue)
        job_id = self.lists[queue].pop(0) if self.lists[queue] else None
        if self.lists[queue]:
            ring.append(queue)
        return job_id

    def owners(self, held: list[Job]) -> list[str]:
        """Those who have jobs here or waiting."""
        waiting = [owner_in(queue) for base in BASES for queue in self.rings[base]]
        return list(dict.fromkeys(waiting + [job.owner for job in held]))

    def next_queue(self, owners: list[str], room: int, turn: int, here: list[Job]) -> str | None:
        """The queue of the owner with the fewest rows here that may have another job."""
        waiting = {queue for base in BASES for queue in self.rings[base]}
        found: list[tuple[int, int, str]] = []
        for number, owner in enumerate(owners):
            rows = [sum(job.rows for job in here if job.queue == of) for of in queues_of(owner)]
            few = room > 0 or sum(rows) < MAX_ROWS / len(owners)
            entering = (
                queues_of(owner)[i]
                for i in TURNS.get(turn % 8, (0, 1, 2))
                if queues_of(owner)[i] in waiting and (few or not rows[i] or sum(rows[: i + 1]) < min(sum(rows), SPARE))
            )
            found += [(sum(rows), number, queue) for queue in list(entering)[:1]]
        return min(found)[2] if found else None

    def taken(self, room: int, turn: int, held: list[Job]) -> tuple[list[str], bool]:
        """Takes whom an admission should take, in which order; and whether one waits to run alone."""
        owners, taken = self.owners(held), list[Job]()
        while queue := self.next_queue(owners, room, turn + len(taken), held + taken):
            if (job_id := self.next_of(queue)) is None:
                continue
            job = self.jobs[job_id]
            alone = job.retries <= 2
            if alone and held + taken:
                self.to_front(job)
                return [each.id for each in taken], True
            job.status, job.resumed = "started", job.saved
            taken.append(job)
            room -= job.rows
            if alone:
                break
        return [each.id for each in taken], False


def owner_in(queue: str) -> str:
    return queue.partition("@")[2]


def queues_of(owner: str) -> list[str]:
    """An owner's queues, the most urgent first."""
    return [queue_name("toy", priority, owner) for priority in PRIORITIES]
