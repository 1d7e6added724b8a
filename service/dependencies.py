"""Dependencies of the routes: the application's parts and the caller. FastAPI would run plain functions in threads."""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyQuery, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from service.access.auth import ANYONE, ApiKey, KeyRing
from service.access.links import SIGNATURE, Links, signed_paths
from service.broker.broker import Broker
from service.errors import Problem
from service.metrics import GatewayMetrics
from worker.jobs import JobView
from worker.store.records import UnreadableRecord

# for the OpenAPI; `caller_of` reads the header, `_readable_job` the query
BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of this server")
SIGNED_URL = APIKeyQuery(
    name=SIGNATURE, auto_error=False, scheme_name="SignedUrl",
    description="Comes in `signed_url` and `events_signed` of a job and opens that one address for some minutes. Where "
    "it is given, it alone decides, whatever the header says",
)  # fmt: skip
UNKNOWN_JOB = "There is no such job; it is unknown or has expired."


async def caller_of(request: Request) -> ApiKey:
    """Whose request it is; every route under /v1 depends on this, those that take a signature where there is none.

    Raises Unauthorized or Forbidden on a server with keys for a request without a good one.
    """
    scheme, secret = get_authorization_scheme_param(request.headers.get("authorization"))
    return _caller_by(request, secret if scheme.lower() == "bearer" and secret else None)


async def password_caller_of(request: Request) -> ApiKey:
    """The same for clients that know user names and passwords alone: the password is an API key, the name is not read.

    A browser sends a password by itself, also where a page of another site asks for it; that one does not count.
    """
    scheme, sent = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() != "basic" or request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return await caller_of(request)
    return _caller_by(request, _password(sent))


def _caller_by(request: Request, secret: str | None) -> ApiKey:
    keys: KeyRing = request.app.state.keys
    caller = keys.caller(secret) if keys.configured else ANYONE
    request.state.caller = caller  # for the log line and the limits of the body
    return caller


def _password(sent: str) -> str | None:
    try:
        return b64decode(sent, validate=True).decode("latin-1").partition(":")[2] or None
    except ValueError:
        return None


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def _metrics(request: Request) -> GatewayMetrics:
    metrics: GatewayMetrics = request.app.state.metrics
    return metrics


CallerOf = Annotated[ApiKey, Depends(caller_of)]
PasswordCallerOf = Annotated[ApiKey, Depends(password_caller_of)]
BrokerOf = Annotated[Broker, Depends(_broker)]
MetricsOf = Annotated[GatewayMetrics, Depends(_metrics)]


async def own_job(job_id: str, broker: BrokerOf, caller: CallerOf) -> JobView:
    try:
        view = await broker.job(job_id)
    except UnreadableRecord as error:
        if error.job.owner == caller.name:
            raise
        view = None
    if view is None or view.payload.owner != caller.name:  # the same answer, so that nobody can probe for ids
        raise Problem(404, UNKNOWN_JOB)
    return view


JobOf = Annotated[JobView, Depends(own_job)]


async def links_of(request: Request, broker: BrokerOf) -> Links:
    root, keys = request.scope["root_path"], request.app.state.keys
    if not keys.configured:
        return Links(root)
    return Links(root, await broker.url_signer(request.app.state.settings.signed_url_ttl_s))


LinksOf = Annotated[Links, Depends(links_of)]


async def _readable_job(request: Request, job_id: str, broker: BrokerOf) -> JobView:
    """The job for who only reads what is named by a path: with an API key, or with a signature for that path.

    Raises what `own_job` raises, and Forbidden for a signature that does not hold. It never says whether there is a job
    to whom has neither.
    """
    keys, signature = request.app.state.keys, request.query_params.get(SIGNATURE)
    if signature is None or not keys.configured:
        return await own_job(job_id, broker, await caller_of(request))
    signer, root = (await links_of(request, broker)).signer, request.scope["root_path"]
    assert signer is not None
    signer.check(request.scope["path"].removeprefix(root), signature, signed_paths(job_id))
    view = await broker.job(job_id)
    if view is None:
        raise Problem(404, UNKNOWN_JOB)
    request.state.caller = keys.named(view.payload.owner)  # for the log line; what is read counts against no rate
    return view


ReadableJobOf = Annotated[JobView, Depends(_readable_job)]
