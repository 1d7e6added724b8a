"""The gateway's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class GatewayMetrics:
    """One per application."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._requests = Counter(
            "ldm_http_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "ldm_http_request_seconds", "From request to last byte", ["route"], buckets=SECONDS, registry=registry
        )
        self._submitted = Counter("ldm_jobs_submitted", "Jobs accepted", ["task", "model", "key"], registry=registry)
        self._refused = Counter(
            "ldm_jobs_refused", "Jobs not accepted for a limit or a right", ["reason", "key"], registry=registry
        )
        self._listeners = Gauge("ldm_event_listeners", "Event streams open to clients", registry=registry)
        self._depth = Gauge("ldm_queue_depth", "Jobs waiting", ["model", "priority"], registry=registry)
        self._webhooks = Counter(
            "ldm_webhook_deliveries", "Attempts to tell webhooks, by what came of them", ["outcome"], registry=registry
        )
        for outcome in ("delivered", "retried", "given_up"):  # from 0 on: the first one is an increase, too
            self._webhooks.labels(outcome)
        self._webhooks_waiting = Gauge("ldm_webhooks_waiting", "Webhooks not told yet", registry=registry)
        self._rows = Gauge(
            "ldm_model_rows",
            "Rows of all steps of a model's live workers since each started",
            ["model"],
            registry=registry,
        )
        self._steps = Gauge("ldm_model_steps", "Steps of them", ["model"], registry=registry)
        self._workers = Gauge("ldm_workers", "Live workers that serve a model", ["model"], registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is its pattern, so that ids make no series of their own."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def submitted(self, task: str, model: str, key: str) -> None:
        """Counts an accepted job; `key` is the name of the caller's API key."""
        self._submitted.labels(task, model, key).inc()

    def refused(self, reason: str, key: str) -> None:
        """Counts a job that was not accepted."""
        self._refused.labels(reason, key).inc()

    def webhook(self, outcome: str) -> None:
        """Counts an attempt: delivered, retried (it went wrong, and another will follow) or given_up."""
        self._webhooks.labels(outcome).inc()

    def listening(self) -> AbstractContextManager[object]:
        """Counts an open event stream while the context is entered."""
        return self._listeners.track_inprogress()

    def exposition(
        self, depths: Mapping[tuple[str, str], int], workers: Mapping[str, int], taken: Mapping[str, tuple[int, int]],
        webhooks_waiting: int = 0,
    ) -> bytes:  # fmt: skip
        """The text that Prometheus reads; `depths` are the jobs waiting by (model, priority), `workers` by model.

        `taken`: rows and steps by model.

        Shows 0 workers for a model that has had jobs and has no worker.
        """
        self._webhooks_waiting.set(webhooks_waiting)
        self._workers.clear()
        for model in {*workers, *(model for model, _ in depths)}:
            self._workers.labels(model).set(workers.get(model, 0))
        self._rows.clear()
        self._steps.clear()
        for model, (rows, steps) in taken.items():
            self._rows.labels(model).set(rows)
            self._steps.labels(model).set(steps)
        for (model, priority), depth in depths.items():
            self._depth.labels(model, priority).set(depth)
        return generate_latest(self._registry)
