"""Is the process alive, can it serve, and how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.broker import BrokerUnavailable
from service.dependencies import BrokerOf, MetricsOf
from service.errors import Problem
from service.openapi import PROBLEM_503

router = APIRouter(tags=["service"])


@router.get("/healthz", summary="The process lives")
async def healthz() -> JSONResponse:
    return JSONResponse({"status": "ok"})


@router.get("/readyz", summary="Redis answers and a live worker serves a model", responses=PROBLEM_503)
async def readyz(broker: BrokerOf) -> JSONResponse:
    if not await broker.ping():
        raise Problem(503, "Redis does not answer.", headers={"Retry-After": "1"})
    if not (models := await broker.models()):
        raise Problem(503, "No live worker serves a model.", headers={"Retry-After": "1"})
    return JSONResponse({"status": "ready", "models": [model.card.id for model in models]})


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(broker: BrokerOf, gateway: MetricsOf) -> Response:
    try:
        depths = await broker.queue_depths()
    except BrokerUnavailable:
        depths = {}
    return Response(gateway.exposition(depths), media_type=CONTENT_TYPE_LATEST)
