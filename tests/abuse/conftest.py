"""A gateway process that tests share, and fresh ones with settings of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.abuse.gateway import Gateway, announce
from worker.process.embedded_redis import EmbeddedRedis

LIMIT = 2**20


@pytest.fixture
def start_gateway(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway on a Redis of its own test, with an announced worker."""
    started: list[Gateway] = []
    announce(redis_url)

    def start(**settings: object) -> Gateway:
        started.append(Gateway(redis_url, tmp_path, **settings))
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture(scope="module")
def gateway(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests of a module: each of them has to leave it as able as it was."""
    with Redis.from_url(redis_server.url) as redis:  # of workers that other tests had
        redis.flushall()
    announce(redis_server.url)
    gateway = Gateway(redis_server.url, tmp_path_factory.mktemp("gateway"), max_body_bytes=LIMIT, queue_limit=10**6)
    yield gateway
    gateway.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client
