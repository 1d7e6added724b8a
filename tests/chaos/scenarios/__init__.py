"""What can go wrong, one module each."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.figures import Figure
from tests.chaos.scenarios import (
    abuse,
    frozen,
    killed_gateway,
    killed_redis,
    killed_workers,
    lost_supervisor,
    recovery,
    rolling,
    soak,
    waiting,
)
from tests.chaos.world import World

SCENARIOS: dict[str, Callable[[World], list[Figure]]] = {
    "workers": killed_workers.run,
    "redis": killed_redis.run,
    "gateway": killed_gateway.run,
    "supervisor": lost_supervisor.run,
    "frozen-worker": frozen.worker,
    "frozen-redis": frozen.redis,
    "recovery": recovery.supervised,
    "recovery-unseen": recovery.alone,
    "cancel": waiting.cancelling,
    "crowd": waiting.crowd,
    "soak": soak.run,
    "rolling": rolling.run,
    "routes": abuse.routes,
    "pictures": abuse.pictures,
}
