"""A rolling restart: gateway and workers are told to end, one after the other, while clients go on."""

from __future__ import annotations

import os
import signal
from itertools import count, takewhile

from tests.chaos.clients import Clients, knows_idempotency
from tests.chaos.figures import Figure, exactly
from tests.chaos.ledger import audit, settle
from tests.chaos.scenarios.killed_gateway import answers
from tests.chaos.trouble import Trouble
from tests.chaos.workload import orders
from tests.chaos.world import World

NAME = "rolling restart"
ROUNDS = 3


def run(world: World) -> list[Figure]:
    wanted = world.references
    rounds = 2 * world.scaled(ROUNDS)
    with world.service() as service:
        service.add_worker()
        service.wait_for_workers(2)
        clients = Clients(service.url, retry_unclear=knows_idempotency(service.url))
        turn = count()

        def restart_next() -> bool:
            """The gateway or the supervised worker, when everything is up again after the last time."""
            if len(service.serving()) < 2 or not answers(service):
                return False
            gateway = service.gateway_pid()
            assert gateway is not None
            os.kill(gateway if next(turn) % 2 else service.supervised_master(), signal.SIGTERM)
            return True

        with Trouble(restart_next, rounds, rng=world.rng(NAME), pauses_s=(0.5, 2.0)) as trouble:
            clients.submit_all(takewhile(lambda _: not trouble.over, orders(5000, world.seed)), pause_s=0.3)
        settle(service)
        retries = ", ".join(f"{times} {why}" for why, times in sorted(clients.retries.items()))
        starts = [int(service.redis.hget(f"rq:job:{job}", "retries_left") or 0) for job in clients.accepted]
        return [
            exactly(NAME, "restarts", trouble.done, rounds),
            *audit(NAME, service, clients.accepted, wanted),
            exactly(NAME, "requests that no ordinary retry covers", len(clients.unclear), 0),
            exactly(NAME, "jobs that lost a retry", sum(left < 3 for left in starts), 0),
            Figure(NAME, "what clients retried", "", retries or "nothing"),
        ]
