"""How long the jobs of a dead worker stand still, with somebody who sees it die and without."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.chaos.clients import Clients
from tests.chaos.figures import Figure, at_most
from tests.chaos.scenarios.killed_workers import holds_jobs, jobs_of
from tests.chaos.service import Service, kill
from tests.chaos.steps import StepCounter
from tests.chaos.workload import orders
from tests.chaos.world import World
from tests.end_to_end.serving import eventually

LEASES = {"lease_s": 5, "beat_s": 1}
LONG = (400, 500)  # steps: such jobs run for as long as this takes


def supervised(world: World) -> list[Figure]:
    """The only worker dies; its master gives the jobs back and forks another, which takes them."""
    name = "recovery"
    queued, running = [], []
    with world.service(lease_s=60) as service:
        clients = Clients(service.url, retry_unclear=False)
        clients.submit_all(orders(6, world.seed, LONG))
        for _ in range(3):  # a job is given back three times at most
            at, jobs, steps = kill_holder(service, service.worker())
            queued.append(max(first_after(at, steps.queued_at[job]) for job in jobs) - at)
            running.append(min(filter(None, (first_after(at, steps.stepped_at[job]) for job in jobs))) - at)
    return [
        at_most(name, "kill to queued, the slowest of 3", max(queued), 1, " s"),
        at_most(name, "kill to stepping again, the slowest of 3", max(running), 3, " s"),
    ]


def alone(world: World) -> list[Figure]:
    """A worker and its master die together, as with their host: the lease must end first."""
    name = "recovery, unseen"
    with world.service(**LEASES) as service:
        process = service.add_worker(**LEASES)
        service.wait_for_workers(2)
        clients = Clients(service.url, retry_unclear=False)
        clients.submit_all(orders(20, world.seed, LONG))
        (worker,) = [pid for pid in service.serving() if service.master_of(pid) == process.pid]
        eventually(lambda: holds_jobs(service, worker))
        kill(process.pid)
        at, jobs, steps = kill_holder(service, worker)
        queued = max(first_after(at, steps.queued_at[job]) for job in jobs) - at
    return [at_most(name, "kill to queued, at most a lease", queued, LEASES["lease_s"], " s")]


def kill_holder(service: Service, worker: int) -> tuple[float, list[str], StepCounter]:
    """Kills a worker that holds jobs: when, which jobs, and the events until all of them run again or are queued."""
    eventually(lambda: holds_jobs(service, worker))
    time.sleep(1)
    jobs = jobs_of(service, worker)
    at = time.time()
    kill(worker)
    steps = StepCounter(service.redis_url)

    def back() -> bool:
        given_back = all(first_after(at, steps.queued_at[job]) for job in jobs)
        return given_back and any(first_after(at, steps.stepped_at[job]) for job in jobs)

    eventually(back)
    steps.close()
    return at, jobs, steps


def first_after(at: float, times: Sequence[float]) -> float:
    """0 where there is none yet."""
    return next((each for each in times if each > at), 0.0)
