"""Puts the gateway together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry

from service import errors
from service.auth import KeyRing
from service.broker import Broker
from service.dependencies import BEARER, guard
from service.metrics import GatewayMetrics
from service.middleware import Envelope
from service.openapi import problems, without_validation_errors
from service.routes import events, health, jobs, models, tasks
from service.settings import GatewaySettings

DESCRIPTION = """Text-to-image, inpainting and super-resolution with latent diffusion models.

Every POST makes a job and answers `202` with it. `Prefer: wait=N` waits for the job, `Accept: image/png` answers with
the picture itself. Errors are `application/problem+json` (RFC 9457)."""


class Gateway(FastAPI):
    """FastAPI, whose description of itself says no more than what is true."""

    def openapi(self) -> dict[str, Any]:
        return without_validation_errors(super().openapi())


def create_app(settings: GatewaySettings, broker: Broker | None = None, keys: KeyRing | None = None) -> FastAPI:
    """The ASGI application. It starts with or without Redis, and says in /readyz what is missing.

    Raises BadKeys for API keys that cannot be read.
    """
    ring = keys or KeyRing(settings.api_keys.get_secret_value(), settings.api_keys_file)
    queue = broker or Broker(
        redis_url=settings.redis_url,
        data_dir=settings.data_dir,
        queue_limit=settings.queue_limit,
        result_ttl_s=settings.result_ttl_s,
        job_timeout_s=settings.job_timeout_s,
    )
    metrics = GatewayMetrics(CollectorRegistry())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await queue.connect()
        yield
        await queue.close()

    app = Gateway(title="ldm-service", version="1", description=DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.broker, app.state.metrics, app.state.settings, app.state.keys = queue, metrics, settings, ring
    app.add_middleware(
        Envelope, metrics=metrics, max_body_bytes=settings.max_body_bytes, body_timeout_s=settings.body_timeout_s
    )
    errors.install(app)
    guards = [Depends(guard), *([Depends(BEARER)] if ring.configured else [])]
    refusals = problems(401, 403) if ring.configured else {}
    for routes in (tasks, jobs, events, models):
        app.include_router(routes.router, dependencies=guards, responses=refusals)
    app.include_router(health.router)
    return app
