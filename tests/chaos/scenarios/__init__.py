"""What can go wrong, one module each."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.figures import Figure
from tests.chaos.scenarios import killed_workers
from tests.chaos.world import World

SCENARIOS: dict[str, Callable[[World], list[Figure]]] = {
    "workers": killed_workers.run,
}
