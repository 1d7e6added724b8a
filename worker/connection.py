"""How every process of ours opens Redis: bytes out, short timeouts, no automatic retries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

AWAY = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError, OSError)  # try again later
UNABLE = re.compile(
    r"\b(OOM|MISCONF|NOREPLICAS|MASTERDOWN|UNBLOCKED)\b"
)  # its memory or disk is full, or it changes roles
SOCKET_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32  # of one asyncio client: thousands of waiting requests share them
CONNECT_TIMEOUT_S = 2.0


@contextmanager
def able() -> Iterator[None]:
    """A Redis that answers but cannot do its work counts as away. Raises ConnectionError then."""
    try:
        yield
    except ResponseError as error:
        if not UNABLE.search(str(error)):
            raise
        raise ConnectionError(str(error)) from error


def connect(url: str) -> Redis:
    """A client for threads. redis-py would resend a command whose reply was lost, pushing a job twice: not here."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def connect_async(url: str) -> aioredis.Redis:
    """The same for an event loop, with a bounded number of connections; who finds none free waits for one."""
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=SOCKET_TIMEOUT_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    return aioredis.Redis.from_pool(pool)
