"""What all scenarios of one run share: a folder, the tiny models, the seed, the size, the reference images."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.chaos.clients import Clients
from tests.chaos.ledger import References, references, settle
from tests.chaos.service import Service
from tests.chaos.workload import DISTINCT, orders
from tests.tiny import write_tiny_models


class World:
    """`size` scales the counts of jobs and kills; 1 is what the figures ask for."""

    def __init__(self, root: Path, *, seed: int = 0, size: float = 1.0) -> None:
        self.root, self.seed, self.size = root, seed, size
        self.models = write_tiny_models(root / "models")
        self._count = 0

    def scaled(self, count: int, least: int = 1) -> int:
        """`count` at full size."""
        return max(least, round(count * self.size))

    def rng(self, scenario: str) -> random.Random:
        """One generator for each scenario, so that each can run alone and do the same."""
        return random.Random(f"{self.seed} {scenario}")

    @contextmanager
    def service(self, **settings: Any) -> Iterator[Service]:
        """A fresh `ldm serve` with an empty data folder, ready; ended afterwards with all its processes."""
        self._count += 1
        service = Service(self.root / f"s{self._count}", self.models, **settings)
        try:
            service.wait_until_ready()
            yield service
        finally:
            service.stop()

    @cached_property
    def references(self) -> References:
        """The images' sums of a run that nobody disturbs."""
        wanted = list(orders(DISTINCT, self.seed))
        with self.service() as service:
            clients = Clients(service.url, retry_unclear=False)
            clients.submit_all(wanted)
            settle(service)
            return references(service, wanted, clients.accepted)
