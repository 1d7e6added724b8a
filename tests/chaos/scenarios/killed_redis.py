"""kill -9 of Redis, again and again, while jobs run and clients submit.

What Redis has written is in the kernel's page cache when its process dies, so `appendfsync everysec` loses nothing
here. A power cut is another matter: it may cost the last second or two of acknowledged submits and outcomes.
"""

from __future__ import annotations

from itertools import takewhile

from tests.chaos.clients import Clients, knows_idempotency
from tests.chaos.figures import Figure, exactly
from tests.chaos.ledger import audit, settle
from tests.chaos.service import kill
from tests.chaos.trouble import Trouble
from tests.chaos.workload import orders
from tests.chaos.world import World

NAME = "redis kills"


def run(world: World) -> list[Figure]:
    kills, rng = world.scaled(20), world.rng(NAME)
    wanted = world.references
    with world.service() as service:
        clients = Clients(service.url, retry_unclear=knows_idempotency(service.url))

        def kill_redis() -> bool:
            return kill(service.redis_pid())

        with Trouble(kill_redis, kills, rng=rng, pauses_s=(0.3, 2.0)) as trouble:
            clients.submit_all(takewhile(lambda _: not trouble.over, orders(5000, world.seed)), pause_s=0.5)
        settle(service)
        made = sum(1 for _ in service.redis.scan_iter("rq:job:*"))
        return [
            exactly(NAME, "kills", trouble.done, kills),
            *audit(NAME, service, clients.accepted, wanted),
            Figure(NAME, "jobs that nobody was told of (made, then 503)", "", str(made - len(clients.accepted))),
        ]
