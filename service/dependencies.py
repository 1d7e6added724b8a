"""What routes take from the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.broker import Broker
from service.metrics import GatewayMetrics


def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


def _metrics(request: Request) -> GatewayMetrics:
    metrics: GatewayMetrics = request.app.state.metrics
    return metrics


BrokerOf = Annotated[Broker, Depends(_broker)]
MetricsOf = Annotated[GatewayMetrics, Depends(_metrics)]
