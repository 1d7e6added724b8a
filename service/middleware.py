"""Around every request: its id, the size of its body, its log line and metrics, and an answer when all else fails."""

from __future__ import annotations

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, problem_response
from service.metrics import GatewayMetrics

log = logging.getLogger(__name__)

SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Envelope:
    """The outermost layer: nothing passes it without X-Request-ID, not even a 500."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, max_body_bytes: int) -> None:
        self._app, self._metrics, self._max_body_bytes = app, metrics, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if SANE_ID.fullmatch(sent) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._limited(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"], extra={"request_id": request_id})
            if not status:
                problem = Problem(500, "Something went wrong here; the log has it under this request id.")
                await problem_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            self._metrics.request(route, scope["method"], status, seconds)
            caller = scope["state"].get("caller")
            told = {"request_id": request_id, "key": caller.name if caller else ""}
            log.info("%s %s %d %.3f s", scope["method"], scope["path"], status, seconds, extra=told)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a body that is too large: at once when its length is declared, else when it has grown so far."""
        limit, seen = self._max_body_bytes, 0
        too_large = Problem(413, f"The body is larger than {limit} bytes.", headers={"Connection": "close"})
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            await problem_response(too_large, scope["path"], scope["state"]["request_id"])(scope, receive, send)
            return

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise too_large
            return message

        await self._app(scope, receive_counted, send)
