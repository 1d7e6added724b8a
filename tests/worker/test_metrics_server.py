"""Clients of a worker's metrics that say nothing: they take few files and threads, and keep nobody out."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack

import httpx
import pytest
from prometheus_client import CollectorRegistry

from tests.end_to_end.serving import free_port
from worker.metrics import WorkerMetrics
from worker.metrics_server import MAX_CONNECTIONS, _Handler


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(_Handler, "timeout", 1.0)
    port = free_port()
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.job_ended("txt2img", "toy", "succeeded", 1.0)
    metrics.serve("127.0.0.1", port)
    return port


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_idle_connections_take_few_files_and_keep_no_scrape_out(port: int) -> None:
    files, threads = open_files(), threading.active_count()
    with ExitStack() as idle:
        connections = [idle.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(150)]
        for connection in connections[::2]:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Unfinished: ")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert 'ldm_jobs_total{model="toy",outcome="succeeded",task="txt2img"} 1.0' in text
        assert open_files() - files - len(connections) <= MAX_CONNECTIONS
        assert threading.active_count() - threads <= MAX_CONNECTIONS
        for connection in connections:  # the older ones at once, the last ones for their silence
            connection.settimeout(10)
            assert connection.recv(1) == b""
    assert httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).status_code == 200


def test_a_port_that_is_taken_is_said_and_stops_nothing(port: int, caplog: pytest.LogCaptureFixture) -> None:
    WorkerMetrics(CollectorRegistry()).serve("127.0.0.1", port)
    assert f"127.0.0.1:{port} cannot be bound (Address already in use); set LDM_METRICS_PORT" in caplog.text
