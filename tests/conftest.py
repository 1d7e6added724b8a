"""What every test may use: a private Redis, real, on a unix socket, empty for each test; a broker; workers to kill."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from service.broker.broker import Broker
from tests.worker.processes import WorkerProcess, eventually
from worker.process.embedded_redis import EmbeddedRedis
from worker.store.connection import connect


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    with tempfile.TemporaryDirectory(prefix="ldm-test-") as directory:  # short: a socket's path is limited
        server = EmbeddedRedis(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    return redis_server.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def redis_config(redis: Redis) -> Iterator[Callable[[str, object], None]]:
    """Sets an option of the private Redis, until the test ends."""
    before: dict[str, str] = {}

    def change(name: str, value: object) -> None:
        before.setdefault(name, redis.config_get(name)[name])
        redis.config_set(name, str(value))

    yield change
    for name, value in before.items():
        redis.config_set(name, value)


@pytest_asyncio.fixture
async def broker(redis_url: str, tmp_path: Path) -> AsyncIterator[Broker]:
    broker = Broker(redis_url=redis_url, data_dir=tmp_path)
    await broker.connect()
    yield broker
    await broker.close()


@pytest.fixture
def start_worker(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts a scripted worker on the same Redis and data directory as `broker`, and waits until it is registered."""
    started: list[WorkerProcess] = []

    def start(**settings: Any) -> WorkerProcess:
        worker = WorkerProcess(redis_url, tmp_path, **settings)
        started.append(worker)
        eventually(lambda: redis.exists(f"ldm:worker:{worker.name}"), 30)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)
            worker.kill()
