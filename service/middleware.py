"""Around every request: its id, bounds on its body, its log line and metrics, and an answer when all else fails."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, problem_response
from service.metrics import GatewayMetrics

log = logging.getLogger(__name__)

SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}  # a made-up one shall make no series of its own
MAX_PATH_CHARS = 200  # in a log line
HUNG_UP = 499  # what logs and metrics say of a client that was gone before its answer
CLOSE = {"Connection": "close"}  # for answers to a body that was not read to its end


class Envelope:
    """The outermost layer: nothing passes it without X-Request-ID, not even a 500."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, max_body_bytes: int, body_timeout_s: float) -> None:
        self._app, self._metrics = app, metrics
        self._max_body_bytes, self._body_timeout_s = max_body_bytes, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if SANE_ID.fullmatch(sent) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, path = 0, scope["path"][:MAX_PATH_CHARS]

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._bounded(scope, receive, send_with_id, lambda: status > 0)
        except ClientDisconnect:
            status = status or HUNG_UP
        except Exception:
            log.exception("%s %s", scope["method"], path, extra={"request_id": request_id})
            if not status:
                problem = Problem(500, "Something went wrong here; the log has it under this request id.")
                await problem_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.request(route, method, status, seconds)
            caller = scope["state"].get("caller")
            told = {"request_id": request_id, "key": caller.name if caller else ""}
            log.info("%s %s %d %.3f s", scope["method"], path, status, seconds, extra=told)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, answered: Callable[[], bool]) -> None:
        """Refuses a body that is too large, at once when its length is declared, and one that takes too long."""
        limit, seen, complete = self._max_body_bytes, 0, False
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and (len(declared) > 20 or int(declared) > limit):
            answer = problem_response(self._too_large(), scope["path"], scope["state"]["request_id"])
            await answer(scope, receive, send)
            return
        loop, deadline = asyncio.get_running_loop(), 0.0

        async def receive_bounded() -> Message:
            nonlocal seen, complete, deadline
            if complete or answered():  # what is waited for from here on is only the client's hanging up
                return await receive()
            deadline = deadline or loop.time() + self._body_timeout_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    408, f"The body was not complete after {self._body_timeout_s:g} s.", headers=CLOSE
                ) from None
            seen += len(message.get("body", b""))
            if seen > limit:
                raise self._too_large()
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_bounded, send)

    def _too_large(self) -> Problem:
        return Problem(413, f"The body is larger than {self._max_body_bytes} bytes.", headers=CLOSE)
