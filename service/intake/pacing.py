"""Charges requests that make no job to the rate of their API key."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect

from ldm_core.errors import RequestError
from service.access.auth import ApiKey, Forbidden
from service.access.quota import IdempotencyConflict, Pace, TooFast
from service.broker.availability import BrokerUnavailable
from service.broker.broker import Broker
from service.errors import Problem
from worker.store.connection import AWAY

AT_FAULT = (Problem, RequestError, Forbidden, IdempotencyConflict, ClientDisconnect)


@asynccontextmanager
async def paced(broker: Broker, caller: ApiKey) -> AsyncIterator[None]:
    """Wraps a submission. Raises TooFast where the key's rate is used up, before the body is read.

    Charges one job for a submission that ends in a 4xx or that its client gives up, because it costs the server as
    much. A 5xx is free, and so is everything for a key without a rate.
    """
    try:
        pace = await broker.rates.pace(caller.name, caller.quota)
    except AWAY as error:
        raise BrokerUnavailable("the job queue does not answer") from error
    if pace is not None and pace.wait_s > 0:
        raise TooFast(pace, caller.quota.window_s, math.ceil(pace.wait_s))
    try:
        yield
    except AT_FAULT as refusal:
        if not isinstance(refusal, Problem) or refusal.status < 500:
            await charge(broker, caller)
        raise


async def charge(broker: Broker, caller: ApiKey) -> Pace | None:
    """Takes one job from the key's rate, for a refused request or a replay, and returns where the key stands then."""
    with suppress(*AWAY):  # the answer is known all the same
        return await broker.rates.pace(caller.name, caller.quota, spend=1)
    return None
