"""What routes take from the application and from the caller. Coroutines, so that none of them costs a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from service.access.auth import ANYONE, ApiKey, KeyRing
from service.broker.broker import Broker
from service.errors import Problem
from service.metrics import GatewayMetrics
from worker.jobs import JobView
from worker.store.records import UnreadableRecord

# for what the service says of itself; `let_in` reads the header
BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of this server")


def let_in(request: Request) -> None:
    """Says whose request it is. Raises Unauthorized or Forbidden on a server with keys for who has none of them."""
    keys: KeyRing = request.app.state.keys
    scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
    known = scheme.lower() == "bearer" and secret
    request.state.caller = keys.caller(secret if known else None) if keys.configured else ANYONE


async def guard(request: Request) -> None:
    """Every route under /v1 depends on this, but for plain ones, which let in by themselves."""
    let_in(request)


class PlainRoute(APIRoute):
    """Hands its endpoint the request and nothing else: what FastAPI does around one took a tenth of a submit's time.

    Dependencies of its router show in the OpenAPI alone.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            let_in(request)
            response: Response = await self.endpoint(request)
            return response

        return handle


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
    try:
        view = await broker.job(job_id)
    except UnreadableRecord as error:
        if error.job.owner == caller.name:
            raise
        view = None
    if view is None or view.payload.owner != caller.name:  # the same answer, so that ids of others cannot be tried out
        raise Problem(404, "There is no such job; it is unknown or has expired.")
    return view


JobOf = Annotated[JobView, Depends(_job)]
