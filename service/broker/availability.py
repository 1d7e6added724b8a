"""What a Redis that is away means to callers of the broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ldm_core.errors import LdmError
from worker.store.connection import AWAY, able


class BrokerUnavailable(LdmError):
    """Redis does not answer, or the store of images takes nothing."""

    retry_after = 2.0


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Turns an error of a Redis that is away into BrokerUnavailable."""
    try:
        with able():
            yield
    except AWAY as error:
        raise BrokerUnavailable("the job queue does not answer") from error
