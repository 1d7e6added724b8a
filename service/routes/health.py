"""Whether the process lives, whether it can serve, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.answers.answers import Health, Readiness
from service.answers.openapi import problems
from service.broker.availability import BrokerUnavailable
from service.dependencies import BrokerOf, MetricsOf
from service.errors import Problem

router = APIRouter(tags=["service"])


@router.get("/healthz", summary="The process lives")
async def get_health() -> Health:
    return Health(status="ok")


@router.get(
    "/readyz", summary="Redis answers and a live worker serves a model", responses=problems(503),
)  # fmt: skip
async def get_readiness(broker: BrokerOf) -> Readiness:
    if not await broker.ping():
        raise Problem(503, "Redis does not answer.", headers={"Retry-After": "1"})
    if trouble := await broker.trouble():
        raise Problem(503, trouble, headers={"Retry-After": "10"})
    if not (models := await broker.models()):
        raise Problem(503, "No live worker serves a model.", headers={"Retry-After": "1"})
    return Readiness(status="ready", models=[model.card.id for model in models])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def get_metrics(broker: BrokerOf, gateway: MetricsOf) -> Response:
    try:
        depths = await broker.queue_depths()
        models = await broker.models()
        webhooks_waiting = await broker.webhooks.waiting()
    except BrokerUnavailable:
        depths, models, webhooks_waiting = {}, [], 0
    workers = {model.card.id: model.workers for model in models}
    taken = {model.card.id: (model.rows, model.steps) for model in models}
    return Response(gateway.exposition(depths, workers, taken, webhooks_waiting), media_type=CONTENT_TYPE_LATEST)
