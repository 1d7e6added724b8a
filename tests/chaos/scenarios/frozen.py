"""What stands still instead of dying: a worker frozen for longer than its lease, a Redis that does not answer."""

from __future__ import annotations

import os
import signal
import time

from tests.chaos.clients import Clients
from tests.chaos.figures import Figure, exactly
from tests.chaos.ledger import audit, settle
from tests.chaos.scenarios.killed_workers import holds_jobs
from tests.chaos.workload import orders
from tests.chaos.world import World
from tests.end_to_end.serving import eventually

LEASES = {"lease_s": 2, "beat_s": 0.5}
REDIS_AWAY_S = 7.0  # longer than a lease, and than the clients of Redis wait for an answer


def worker(world: World) -> list[Figure]:
    """Frozen with jobs in its hands, thawed when others have taken them over: it must not write."""
    name = "worker frozen"
    wanted = world.references
    with world.service(**LEASES) as service:
        service.add_worker(**LEASES)
        service.wait_for_workers(2)
        clients = Clients(service.url, retry_unclear=False)
        clients.submit_all(orders(world.scaled(60, 20), world.seed))
        frozen = eventually(lambda: next((pid for pid in service.serving() if holds_jobs(service, pid)), 0))
        os.kill(frozen, signal.SIGSTOP)
        eventually(lambda: not holds_jobs(service, frozen) or frozen not in service.serving())
        time.sleep(1)
        os.kill(frozen, signal.SIGCONT)
        settle(service)
        restarted = [job for job in clients.accepted if int(service.redis.hget(f"rq:job:{job}", "x_starts") or 0) > 1]
        return [
            Figure(name, "jobs taken over from it", ">= 1", str(len(restarted)), bool(restarted)),
            *audit(name, service, clients.accepted, wanted),
            exactly(name, "workers that serve in the end", len(service.serving()), 2),
        ]


def redis(world: World) -> list[Figure]:
    """Nobody can renew a lease or write an outcome for a while; then everybody goes on."""
    name = "redis frozen"
    wanted = world.references
    with world.service(**LEASES) as service:
        clients = Clients(service.url, retry_unclear=False)
        clients.submit_all(orders(world.scaled(60, 20), world.seed))
        eventually(lambda: any(holds_jobs(service, pid) for pid in service.serving()))
        pid = service.redis_pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        time.sleep(REDIS_AWAY_S)
        os.kill(pid, signal.SIGCONT)
        settle(service)
        return [*audit(name, service, clients.accepted, wanted)]
