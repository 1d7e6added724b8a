"""The HTTP server of a worker's metrics: few connections and short ones, whoever opens them."""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16  # each is a thread and an open file of the process that runs the jobs
SILENCE_S = 5.0  # that a client may need for the next part of its request, or to read on
HAND_OVER_S = 1.0


def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> None:
    """Answers Prometheus from a thread of its own. Raises OSError when the address cannot be bound."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    kind = type("MetricsServer", (MetricsServer,), {"address_family": family})
    server: MetricsServer = make_server(str(address[0]), port, make_wsgi_app(registry), kind, _Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A thread for each connection. Where all are taken, the oldest connection is closed for the newest."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self._open: deque[socket.socket] = deque()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self._end_oldest()
            if not self._free.acquire(timeout=HAND_OVER_S):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open.append(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock, suppress(ValueError):
                self._open.remove(request)
            self._free.release()

    def _end_oldest(self) -> None:
        with self._lock:
            oldest = self._open.popleft() if self._open else None
        if oldest is not None:
            with suppress(OSError):  # it has ended by itself
                oldest.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection to the metrics ended early", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: Any) -> None:
        """A scrape every few seconds is no news."""
