"""kill -9 of workers, again and again, while a thousand jobs run: on a supervised worker and on one beside it."""

from __future__ import annotations

from contextlib import suppress

from tests.chaos.clients import Clients
from tests.chaos.figures import Figure, at_most, exactly
from tests.chaos.ledger import audit, settle
from tests.chaos.service import Service, kill
from tests.chaos.steps import StepCounter
from tests.chaos.trouble import Trouble
from tests.chaos.workload import orders
from tests.chaos.world import World
from worker.store.connection import AWAY
from worker.store.keys import Key

NAME = "worker kills"
PAUSES_S = (0.1, 1.0)  # such that the kills are over before the jobs are


def run(world: World) -> list[Figure]:
    jobs, kills, rng = world.scaled(1000), world.scaled(50), world.rng(NAME)
    wanted = world.references
    with world.service() as service:
        service.add_worker()
        service.wait_for_workers(2)
        steps = StepCounter(service.redis_url)
        clients = Clients(service.url, retry_unclear=False)

        def kill_one() -> bool:
            victims = [pid for pid in service.serving() if holds_jobs(service, pid)]
            return bool(victims) and kill(rng.choice(victims))

        with Trouble(kill_one, kills, rng=rng, pauses_s=PAUSES_S) as trouble:
            clients.submit_all(orders(jobs, world.seed))
            settle(service)
        steps.close()
        return [
            exactly(NAME, f"kills among {jobs} jobs", trouble.done, kills),
            *audit(NAME, service, clients.accepted, wanted),
            at_most(NAME, "steps computed twice", 100 * steps.share_recomputed, 10, " %"),
        ]


def holds_jobs(service: Service, pid: int) -> bool:
    """Whether the worker with this process id has leased any."""
    return bool(jobs_of(service, pid))


def jobs_of(service: Service, pid: int) -> list[str]:
    """The ids of the jobs that it has leased."""
    redis = service.redis
    with suppress(*AWAY):
        names = [name.decode() for name in redis.smembers(Key.WORKERS)]
        mine = [name for name in names if redis.hget(f"rq:worker:{name}", "pid") == str(pid).encode()]
        held = [both.decode() for name in mine for both in redis.smembers(f"rq:worker:{name}:executions")]
        return [both.partition(":")[0] for both in held]
    return []
