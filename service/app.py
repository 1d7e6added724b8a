"""Puts the gateway together."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from service import errors
from service.access.auth import KeyRing
from service.access.origins import own_hosts, parse_origins
from service.answers.openapi import completed, problems
from service.broker.broker import Broker
from service.dependencies import BEARER, SIGNED_URL, caller_of
from service.http.bounded_body import BodyLimits
from service.http.cors import Cors
from service.http.head import HeadAsGet
from service.http.memory import BodyBudget
from service.http.middleware import RequestMiddleware
from service.http.site_guard import SiteGuard
from service.metrics import GatewayMetrics
from service.routes import (
    a1111,
    a1111_served,
    docs,
    events,
    health,
    images,
    jobs,
    mcp,
    models,
    openai_images,
    playground,
    tasks,
)
from service.settings import GatewaySettings
from service.webhooks.deliveries import Deliveries

DESCRIPTION = """Text-to-image, inpainting and super-resolution with latent diffusion models.

Every POST makes a job and answers `202` with it. `Prefer: wait=N` waits for the job, `Accept: image/png` answers with
the image itself. Errors are `application/problem+json` (RFC 9457)."""


# a request's target as proxies get it: scheme, authority and path
ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/]*)(.*)", re.DOTALL)


class Gateway(FastAPI):
    """FastAPI that answers under `root`, whether or not a proxy strips it, and completes its OpenAPI."""

    def __init__(self, root: str, **given: Any) -> None:
        super().__init__(**given)
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if target := ABSOLUTE.fullmatch(path):
                scope.setdefault("state", {})["authority"], path = target.groups()
            if len(path) > 1:
                path = path.removesuffix("/")
            if path == self._root:  # the page
                path += "/"
            below = not self._root or path.startswith(f"{self._root}/")
            scope["root_path"], scope["path"] = self._root, path if below else self._root + path
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi(), openai_images.REQUESTS)
        return self.openapi_schema


def create_app(settings: GatewaySettings, broker: Broker | None = None, keys: KeyRing | None = None) -> FastAPI:
    """The ASGI application. It starts with or without Redis; /readyz says what is missing.

    Raises BadKeys for API keys that cannot be read.
    """
    ring = keys or KeyRing(settings.api_keys.get_secret_value(), settings.api_keys_file)
    queue = broker or Broker(
        redis_url=settings.redis_url,
        data_dir=settings.data_dir,
        queue_limit=settings.queue_limit,
        result_ttl_s=settings.result_ttl_s,
        job_timeout_s=settings.job_timeout_s,
        queue_ttl_s=settings.queue_ttl_s,
        allow_eviction=settings.allow_eviction,
    )
    metrics = GatewayMetrics(CollectorRegistry())

    deliveries = Deliveries(queue, metrics, settings, keys=ring.configured)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await queue.connect()
        if settings.webhook_rules.hosts:
            deliveries.start()
        yield
        await deliveries.close()
        await queue.close()

    app = Gateway(
        settings.root_path, title="ldm-service", version="1", description=DESCRIPTION, lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False, generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.broker, app.state.metrics, app.state.settings, app.state.keys = queue, metrics, settings, ring
    app.add_middleware(HeadAsGet)
    origins = parse_origins(settings.cors_origins)
    hosts = own_hosts(settings.allowed_hosts, settings.host)
    if ring.configured:  # no browser sends a key by itself, so a page of another site has none
        app.add_middleware(SiteGuard, hosts=hosts if settings.allowed_hosts else None, origins=None)
    else:
        app.add_middleware(SiteGuard, hosts=hosts, origins=origins)
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        body_limits=BodyLimits(
            settings.max_body_bytes, settings.body_timeout_s, BodyBudget(settings.bodies_budget_bytes)
        ),
    )
    if origins:
        app.add_middleware(Cors, origins=origins)
    errors.install(app)
    app.include_router(docs.router)
    if settings.playground:
        app.include_router(playground.router)
    bearer, signed = ([Depends(BEARER)], [Depends(SIGNED_URL)]) if ring.configured else ([], [])
    refusals = problems(401, 403) if ring.configured else {}
    for routes in (tasks, openai_images, jobs, models):
        app.include_router(routes.router, dependencies=[Depends(caller_of), *bearer], responses=refusals)
    for routes in (images, events):  # they depend on `ReadableJobOf`, which takes a key or a signature
        app.include_router(routes.router, dependencies=[*bearer, *signed], responses=refusals)
    if settings.mcp:
        app.include_router(mcp.router)
    app.include_router(a1111.router)
    app.include_router(a1111_served.router)
    app.include_router(health.router)
    return app
