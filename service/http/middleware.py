"""Wraps every request: its id, bounds on its body, its log line and metrics, and a 500 for an unexpected error."""

from __future__ import annotations

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, problem_response
from service.http.bounded_body import BodyLimits, BoundedBody
from service.metrics import GatewayMetrics

log = logging.getLogger(__name__)

SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}  # others share one series
MAX_PATH_CHARS = 200  # in a log line
PROBES = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds
HUNG_UP = 499  # in logs and metrics, for a client that hung up before its answer


class RequestMiddleware:
    """Adds X-Request-ID to every answer, even to a 500."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, body_limits: BodyLimits) -> None:
        self._app, self._metrics, self._body_limits = app, metrics, body_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if SANE_ID.fullmatch(sent) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, path = 0, scope["path"][:MAX_PATH_CHARS]
        body = BoundedBody(scope, receive, self._body_limits, lambda: status > 0)
        scope["state"]["body"] = body

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if body.refusal:  # the rest of the body is not read either
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, body.receive, send_with_id)
        except ClientDisconnect:
            status = status or HUNG_UP
        except Exception:
            log.exception("%s %s", scope["method"], path, extra={"request_id": request_id})
            if not status:
                problem = Problem(500, "Something went wrong here; the log has it under this request id.")
                await problem_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            body.release()
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.request(route, method, status, seconds)
            caller = scope["state"].get("caller")
            told = {"request_id": request_id, "key": caller.name if caller else ""}
            expected = route in PROBES and (status < 500 or status == 503)  # 503: not ready, as the answer says
            level = logging.DEBUG if expected else logging.INFO
            log.log(level, "%s %s %d %.3f s", scope["method"], path, status, seconds, extra=told)
