"""What a worker tells Prometheus. No torch: the device's memory is a function given from outside."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from worker.metrics_server import serve_metrics

log = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)


class WorkerMetrics:
    """The worker's metrics, and the hooks that the engine calls."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._jobs = Counter("ldm_jobs", "Jobs that ended", ["task", "model", "outcome"], registry=registry)
        self._wait = Histogram(
            "ldm_queue_wait_seconds", "From enqueued to admitted", ["model"], buckets=JOB_SECONDS, registry=registry
        )
        self._job_seconds = Histogram(
            "ldm_job_seconds", "From admitted to committed", ["task"], buckets=JOB_SECONDS, registry=registry
        )
        self._rows_per_step = Histogram(
            "ldm_rows_per_step", "Rows that one step took, padding left out", ["model"], buckets=ROWS, registry=registry
        )
        self._padded = Counter("ldm_padded_rows", "Rows computed only as padding", ["model"], registry=registry)
        self._step_seconds = Histogram(
            "ldm_step_seconds", "One denoising step over all rows", ["model"], buckets=STEP_SECONDS, registry=registry
        )
        self._stage_seconds = Histogram(
            "ldm_stage_seconds", "One call of a stage: begin, step, finish or encode", ["stage"], buckets=STEP_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._rows_running = Gauge("ldm_rows_running", "Rows being denoised now", ["model"], registry=registry)
        self._memory = Gauge(
            "ldm_device_memory_bytes", "Memory in use on the device; on a CPU, of this process", registry=registry
        )

    def step(self, model: str, rows: int, padded: int, seconds: float) -> None:
        """One denoising step of `model`: `rows` of use, and `padded` to fill the fixed shape."""
        self._rows_per_step.labels(model).observe(rows)
        self._padded.labels(model).inc(padded)
        self._step_seconds.labels(model).observe(seconds)

    def taken(self) -> dict[str, tuple[int, int]]:
        """Rows and steps of each model so far; for other threads."""
        samples = [sample for metric in self._rows_per_step.collect() for sample in metric.samples]
        rows, steps = (
            {sample.labels["model"]: int(sample.value) for sample in samples if sample.name.endswith(end)}
            for end in ("_sum", "_count")
        )
        return {model: (rows[model], steps[model]) for model in steps}

    def stage(self, name: str, seconds: float) -> None:
        """One call of a stage."""
        self._stage_seconds.labels(name).observe(seconds)

    def rows_running(self, model: str, n: int) -> None:
        """How many rows `model` has in its batch now."""
        self._rows_running.labels(model).set(n)

    def job_admitted(self, model: str, waited_s: float) -> None:
        """A job left the queue."""
        self._wait.labels(model).observe(max(0.0, waited_s))

    def job_ended(self, task: str, model: str, outcome: str, seconds: float) -> None:
        """A job ended here: succeeded, failed, cancelled, retried or lost."""
        self._jobs.labels(task, model, outcome).inc()
        self._job_seconds.labels(task).observe(seconds)

    def watch_memory(self, read: Callable[[], float]) -> None:
        """`read` gives the bytes in use whenever Prometheus asks."""
        self._memory.set_function(read)

    def serve(self, host: str, port: int) -> None:
        """Answers Prometheus on `port`; 0 means not at all. A port that is taken must not stop the images."""
        if not port:
            return
        try:
            serve_metrics(host, port, self._registry)
        except OSError as error:
            log.warning("no metrics: %s:%d cannot be bound (%s); set LDM_METRICS_PORT", host, port, error.strerror)


def process_memory() -> float:
    """Resident bytes of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return float(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0.0
