"""What the engine reports of itself."""

from __future__ import annotations

from typing import Protocol


class EngineMetrics(Protocol):
    """Is told of every step; `worker.metrics` hands it to Prometheus."""

    def step(self, model: str, rows: int, padded: int, seconds: float) -> None: ...
    def stage(self, name: str, seconds: float) -> None: ...
    def rows_running(self, model: str, n: int) -> None: ...
