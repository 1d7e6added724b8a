"""What routes take from the application and from the caller. Coroutines, so that none of them costs a thread."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.auth import ANYONE, ApiKey, KeyRing
from service.broker import Broker
from service.errors import Problem
from service.metrics import GatewayMetrics
from worker.jobs import JobView

BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of this server")


async def known_caller(request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
    """Lets in whoever has a key; every route of a server with keys depends on this."""
    keys: KeyRing = request.app.state.keys
    request.state.caller = keys.caller(sent.credentials if sent else None)


async def any_caller(request: Request) -> None:
    """Lets in everyone; the same for a server without keys."""
    request.state.caller = ANYONE


async def _caller(request: Request) -> ApiKey:
    caller: ApiKey = request.state.caller
    return caller


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def _metrics(request: Request) -> GatewayMetrics:
    metrics: GatewayMetrics = request.app.state.metrics
    return metrics


CallerOf = Annotated[ApiKey, Depends(_caller)]
BrokerOf = Annotated[Broker, Depends(_broker)]
MetricsOf = Annotated[GatewayMetrics, Depends(_metrics)]


async def _job(job_id: str, broker: BrokerOf, caller: CallerOf) -> JobView:
    view = await broker.job(job_id)
    if view is None or view.payload.owner != caller.name:  # the same answer, so that ids of others cannot be tried out
        raise Problem(404, "There is no such job; it is unknown or has expired.")
    return view


JobOf = Annotated[JobView, Depends(_job)]
