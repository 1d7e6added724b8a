"""How every process of ours opens Redis: bytes out, short timeouts, no automatic retries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from worker.store.turns import Turns


class WrongDatabase(ConnectionError):
    """Redis is there, and refuses the database of LDM_REDIS_URL."""


AWAY = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError, OSError)  # try again later
DENIED = (AuthenticationError, WrongDatabase)  # also in AWAY, for it may be mended; the messages are ours
NO_DATABASE = re.compile(r"\b(SELECT|DB index)\b", re.IGNORECASE)  # no right to SELECT, no such number, a cluster
UNABLE = re.compile(
    r"\b(OOM|MISCONF|NOREPLICAS|MASTERDOWN|UNBLOCKED)\b"
)  # its memory or disk is full, or it changes roles
SOCKET_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32  # of one asyncio client: thousands of waiting requests share them
TURN_S = 20.0  # that a request waits until one is free: a crowd shall be served rather than sent away
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


def why(error: Exception) -> str:
    """The beginning of a log line about an error of AWAY: a Redis that denies us is not away."""
    return str(error) if isinstance(error, DENIED) else f"Redis is away ({error})"


def address_of(url: str) -> str:
    """Where a Redis is, without the password."""
    given = parse_url(url)  # type: ignore[no-untyped-call]
    return str(given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}")


def not_there(url: str, error: Exception) -> str:
    """What to say of a Redis that is not there at a start."""
    if isinstance(error, DENIED):
        return str(error)
    return f"Redis at {address_of(url)} does not answer ({error})"


def check_database(url: str) -> None:
    """Raises WrongDatabase where Redis answers and refuses it. Whatever else is wrong may pass."""
    try:
        with connect(url) as redis:
            redis.ping()
    except WrongDatabase:
        raise
    except (RedisError, OSError):
        pass


def connect(url: str) -> Redis:
    """A client for threads. redis-py would resend a command whose reply was lost, pushing a job twice: not here."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        redis_connect_func=_introduce,
    )


def connect_async(url: str) -> aioredis.Redis:
    """The same for an event loop, with a bounded number of connections; who finds none free waits for one."""
    pool = _FairPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    return aioredis.Redis.from_pool(pool)


class _FairPool(aioredis.ConnectionPool):
    """Lends its connections in the order of asking.

    In redis-py's BlockingConnectionPool a newcomer takes what was freed before the one who waited for it wakes up, who
    then goes to the end of the line: of a crowd, many wait in vain.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._turns = Turns(self.max_connections, TURN_S)

    async def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        """Raises TimeoutError after TURN_S."""
        await self._turns.take()
        connection: Any = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            with _introduction(connection):
                await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        try:
            await super().release(connection)
        finally:
            self._turns.give_back()


@contextmanager
def _introduction(connection: Any) -> Iterator[None]:
    """Around the first words on a connection: a refusal is said in terms of LDM_REDIS_URL, and repeats no secret."""
    try:
        yield
    except (RedisError, OSError) as error:
        refusal = error.__cause__ or error  # an asyncio connection through a unix socket wraps it
        if isinstance(refusal, AuthenticationError):
            given = connection.username or connection.password
            lacks = (
                "refuses the name or password of LDM_REDIS_URL" if given else "wants a password, LDM_REDIS_URL has none"
            )
            raise AuthenticationError(f"Redis {lacks}") from None
        if isinstance(refusal, ResponseError) and connection.db and NO_DATABASE.search(str(refusal)):
            detail = "there is none of this number, or the user has no right to SELECT; database 0 needs none"
            raise WrongDatabase(f"Redis refuses database {connection.db} of LDM_REDIS_URL: {detail}") from None
        raise


def _introduce(connection: Any) -> None:
    """What a connection for threads says first."""
    with _introduction(connection):
        connection.on_connect()
