"""A running service to talk to: one for all tests that leave it as it was, and fresh ones for those that do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.serving import Served, serving
from tests.tiny import write_tiny_models

if sys.platform != "linux":
    pytest.skip("counts processes in /proc", allow_module_level=True)


@pytest.fixture(scope="session")
def tiny_dirs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_dirs: list[Path]) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "data", tiny_dirs) as service:
        yield service


@pytest.fixture(scope="session")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service as `make run` starts it, with the models that come with it."""
    with serving(tmp_path_factory.mktemp("builtin") / "data", models=[]) as service:
        yield service


@pytest.fixture
def serve(tmp_path: Path, tiny_dirs: list[Path]) -> Iterator[Callable[..., Served]]:
    """Starts a service with tiny models. A second one in the same test has the same data folder."""
    started: list[Served] = []

    def start(models: list[Path] | None = None, **settings: object) -> Served:
        started.append(Served(tmp_path / "data", tiny_dirs if models is None else models, **settings))
        return started[-1]

    yield start
    for service in started:
        service.stop()
