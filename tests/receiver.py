"""A receiver of webhooks: a real HTTP server that notes what comes and answers as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
HANG = 0  # instead of a status: says nothing until the test ends


@dataclass
class Told:
    """One attempt as it came in."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """The body, if its signature holds."""
        return Webhook(secret).verify(self.body, dict(self.headers))

    @property
    def job_id(self) -> str:
        return str(json.loads(self.body)["data"]["id"])


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses of `answers`, one for each attempt, and then 204."""

    daemon_threads = True

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.told = [*answers], list[Told]()
        self.released, self.lock = threading.Event(), threading.Lock()

    def url(self, host: str = "localhost", path: str = "/hook?token=s3cret", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}{path}"

    def hosts(self, *names: str) -> str:
        """For LDM_WEBHOOK_HOSTS."""
        return ",".join(f"{name}:{self.server_port}" for name in names or ("localhost",))

    def of(self, job_id: str) -> list[Told]:
        return [told for told in self.told if told.job_id == job_id]


class Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        with self.server.lock:
            self.server.told.append(
                Told(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            status = self.server.answers.pop(0) if self.server.answers else 204
        if status == HANG:
            self.server.released.wait(60)
            return
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:  # of who follows a redirect
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    receiver = Receiver(*answers)
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        receiver.shutdown()
        thread.join()
        receiver.server_close()
