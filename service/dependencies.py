"""Dependencies of the routes: the application's parts and the caller. FastAPI would run plain functions in threads."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from service.access.auth import ANYONE, ApiKey, KeyRing
from service.broker.broker import Broker
from service.errors import Problem
from service.metrics import GatewayMetrics
from worker.jobs import JobView
from worker.store.records import UnreadableRecord

# for the OpenAPI; `caller_of` reads the header
BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of this server")


async def caller_of(request: Request) -> ApiKey:
    """Whose request it is; every route under /v1 depends on this.

    Raises Unauthorized or Forbidden on a server with keys for a request without a good one.
    """
    keys: KeyRing = request.app.state.keys
    scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
    sent = secret if scheme.lower() == "bearer" and secret else None
    caller = keys.caller(sent) if keys.configured else ANYONE
    request.state.caller = caller  # for the log line and the limits of the body
    return caller


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def _metrics(request: Request) -> GatewayMetrics:
    metrics: GatewayMetrics = request.app.state.metrics
    return metrics


CallerOf = Annotated[ApiKey, Depends(caller_of)]
BrokerOf = Annotated[Broker, Depends(_broker)]
MetricsOf = Annotated[GatewayMetrics, Depends(_metrics)]


async def _job(job_id: str, broker: BrokerOf, caller: CallerOf) -> JobView:
    try:
        view = await broker.job(job_id)
    except UnreadableRecord as error:
        if error.job.owner == caller.name:
            raise
        view = None
    if view is None or view.payload.owner != caller.name:  # the same answer, so that nobody can probe for ids
        raise Problem(404, "There is no such job; it is unknown or has expired.")
    return view


JobOf = Annotated[JobView, Depends(_job)]
