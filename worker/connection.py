"""How every process of ours opens Redis: bytes out, short timeouts, no automatic retries."""

from __future__ import annotations

from redis import Redis
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, ReadOnlyError, TimeoutError
from redis.retry import Retry

AWAY = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError)  # worth another try, later
SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0
MAX_CONNECTIONS = 32  # of one gateway; Redis takes one command at a time anyway


def connect(url: str) -> Redis:
    """A client for threads. redis-py would resend a command whose reply was lost, pushing a job twice: not here."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def connect_async(url: str) -> aioredis.Redis:
    """The same for an event loop. In a crowd, who finds every connection in use waits for one; 503 is for an outage."""
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=SOCKET_TIMEOUT_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    return aioredis.Redis.from_pool(pool)
