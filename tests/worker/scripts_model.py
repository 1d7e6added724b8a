"""What the scripts should do to jobs, in plain Python: `test_scripts_property` holds them against it."""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs import PRIORITIES, queue_name
from worker.records import MAX_RETRIES

QUEUES = [queue_name("toy", priority) for priority in PRIORITIES]
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
    starts: int = 0
    cancelled: bool = False


class Jobs:
    """All jobs, and the lists in which the queued ones wait."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.lists: dict[str, list[str]] = {queue: [] for queue in QUEUES}

    def open(self) -> set[str]:
        return {job.id for job in self.jobs.values() if job.status not in ENDED}

    def owns(self, job_id: str, execution: str) -> bool:
        job = self.jobs[job_id]
        return job.status == "started" and job.execution == execution

    def ended_by(self, job_id: str, execution: str) -> bool:
        job = self.jobs[job_id]
        return job.status in ENDED and job.execution == execution

    def end(self, job: Job, outcome: str) -> str:
        """A flaky end is worth another try, while there are any left."""
        if outcome == "flaky" and job.retries > 0:
            job.retries -= 1
            self.to_front(job)
        else:
            job.status = "failed" if outcome == "flaky" else outcome
        return job.status

    def to_front(self, job: Job) -> None:
        job.status = "queued"
        self.lists[job.queue].insert(0, job.id)

    def taken(self, room: int, turn: int, held: int) -> list[str]:
        """Whom an admission should take, in which order."""
        lists = {queue: list(ids) for queue, ids in self.lists.items()}
        taken: list[str] = []
        while room > 0:
            order = [QUEUES[i] for i in TURNS.get((turn + len(taken)) % 8, (0, 1, 2))]
            queue = next((queue for queue in order if lists[queue]), None)
            if queue is None:
                break
            job = self.jobs[lists[queue].pop(0)]
            alone = job.retries <= 1
            if alone and held + len(taken):
                break
            taken.append(job.id)
            room = 0 if alone else room - job.rows
        return taken
