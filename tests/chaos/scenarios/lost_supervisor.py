"""kill -9 of `ldm serve` itself: its children end with it, and the next start goes on where it stopped."""

from __future__ import annotations

import time

from tests.chaos.clients import Clients
from tests.chaos.figures import Figure, at_most, exactly
from tests.chaos.ledger import audit, settle
from tests.chaos.scenarios.killed_workers import holds_jobs
from tests.chaos.service import Service, alive, kill
from tests.chaos.workload import orders
from tests.chaos.world import World
from tests.end_to_end.serving import eventually

NAME = "supervisor kill"
ATTEMPTS = 5


def run(world: World) -> list[Figure]:
    wanted = world.references
    with world.service() as service:
        clients = Clients(service.url, retry_unclear=False)
        clients.submit_all(orders(world.scaled(60, 20), world.seed))
        eventually(lambda: any(holds_jobs(service, pid) for pid in service.serving()))
        redis = service.redis_pid()
        kill(service.process.pid)
        killed_at = time.monotonic()
        again, starts = start_again(service)
        try:
            eventually(lambda: not service.processes() and not (redis and alive(redis)), 30)
            left = time.monotonic() - killed_at
            settle(again)
            return [
                exactly(NAME, "starts until it serves again", starts, 1),
                at_most(NAME, "until nothing of the old one is left", left, 12, " s"),
                *audit(NAME, again, clients.accepted, wanted),
            ]
        finally:
            again.stop()


def start_again(killed: Service) -> tuple[Service, int]:
    """On the same data folder and port, at once, as often as it takes."""
    for attempt in range(1, ATTEMPTS + 1):
        service = Service(killed.data_dir, killed.models, port=killed.port)
        try:
            service.wait_until_ready()
        except AssertionError:
            service.stop()
            continue
        return service, attempt
    raise AssertionError(f"it did not start in {ATTEMPTS} attempts")
