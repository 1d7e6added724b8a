"""kill -9 of the gateway, again and again, under clients that retry as clients do."""

from __future__ import annotations

from contextlib import suppress
from itertools import takewhile

import httpx

from tests.chaos.clients import Clients, knows_idempotency
from tests.chaos.figures import Figure, exactly
from tests.chaos.ledger import audit, settle
from tests.chaos.service import Service, kill
from tests.chaos.trouble import Trouble
from tests.chaos.workload import orders
from tests.chaos.world import World

NAME = "gateway kills"


def run(world: World) -> list[Figure]:
    kills, rng = world.scaled(20), world.rng(NAME)
    wanted = world.references
    with world.service() as service:
        clients = Clients(service.url, retry_unclear=knows_idempotency(service.url))

        def kill_gateway() -> bool:
            return answers(service) and kill(service.gateway_pid())

        with Trouble(kill_gateway, kills, rng=rng, pauses_s=(0.1, 1.5)) as trouble:
            clients.submit_all(takewhile(lambda _: not trouble.over, orders(5000, world.seed)), pause_s=0.3)
        settle(service)
        retries = ", ".join(f"{count} {why}" for why, count in sorted(clients.retries.items()))
        return [
            exactly(NAME, "kills", trouble.done, kills),
            *audit(NAME, service, clients.accepted, wanted),
            Figure(NAME, "what clients retried", "", retries),
            Figure(NAME, "requests without an answer, not sent again", "", str(len(clients.unclear))),
        ]


def answers(service: Service) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{service.url}/healthz", timeout=5).status_code == 200
    return False
