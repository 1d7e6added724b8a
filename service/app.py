"""Puts the gateway together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service import errors
from service.broker import Broker
from service.metrics import GatewayMetrics
from service.middleware import Envelope
from service.routes import health, jobs, models
from service.settings import GatewaySettings

DESCRIPTION = """Text-to-image, inpainting and super-resolution with latent diffusion models.

Every POST makes a job and answers `202` with it. `Prefer: wait=N` waits for the job, `Accept: image/png` answers with
the picture itself. Errors are `application/problem+json` (RFC 9457)."""


def create_app(settings: GatewaySettings, broker: Broker | None = None) -> FastAPI:
    """The ASGI application. It starts with or without Redis, and says in /readyz what is missing."""
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

    app = FastAPI(title="ldm-service", version="1", description=DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.broker, app.state.metrics = queue, metrics
    app.add_middleware(
        Envelope, metrics=metrics, max_body_bytes=settings.max_body_bytes, body_timeout_s=settings.body_timeout_s
    )
    errors.install(app)
    for routes in (jobs, models, health):
        app.include_router(routes.router)
    return app
