"""The short version of `make chaos`: each part is killed once, under load."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.clients import Clients, knows_idempotency
from tests.chaos.ledger import audit, references, settle
from tests.chaos.scenarios.killed_gateway import answers
from tests.chaos.scenarios.killed_workers import holds_jobs
from tests.chaos.service import kill
from tests.chaos.workload import orders
from tests.chaos.world import World
from tests.end_to_end.serving import eventually

pytestmark = pytest.mark.slow

if sys.platform != "linux":
    pytest.skip("finds its victims in /proc", allow_module_level=True)

COUNT = 18  # every kind of request, twice


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="ldm-chaos-") as root:  # short: a socket's path is limited
        yield World(Path(root))


def test_worker_redis_and_gateway_killed_under_load_cost_no_job_and_no_byte(world: World) -> None:
    with world.service() as service:
        undisturbed = list(orders(COUNT, seed=0))
        clients = Clients(service.url, retry_unclear=knows_idempotency(service.url))
        clients.submit_all(undisturbed)
        settle(service)
        wanted = references(service, undisturbed, clients.accepted)

        clients.submit_all(orders(COUNT, seed=1))
        worker = service.worker()
        eventually(lambda: holds_jobs(service, worker))
        assert kill(worker)
        eventually(lambda: holds_jobs(service, service.worker()))
        assert kill(service.redis_pid())
        assert kill(service.gateway_pid())
        clients.submit_all(orders(COUNT // 2, seed=2))
        eventually(lambda: answers(service))
        settle(service)
        misses = [figure for figure in audit("short", service, clients.accepted, wanted) if not figure.ok]
        assert not misses, service.log()
        assert len(clients.accepted) + len(clients.unclear) == 2 * COUNT + COUNT // 2
