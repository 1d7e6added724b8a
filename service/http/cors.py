"""CORS: pages of the configured origins may use this server from a browser."""

from __future__ import annotations

import logging
from collections.abc import Collection
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from service.errors import Problem, problem_response
from service.http.middleware import SANE_ID

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "DELETE")
SENT = (
    "Accept", "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Mcp-Method", "Mcp-Name",
    "Mcp-Protocol-Version", "Prefer", "X-Request-ID",
)  # fmt: skip
READ = (
    "Content-Disposition", "ETag", "Idempotent-Replay", "Link", "Location", "Preference-Applied", "RateLimit-Limit",
    "RateLimit-Remaining", "RateLimit-Reset", "Retry-After", "X-Job-ID", "X-Job-Warning", "X-Request-ID", "X-Seed",
)  # fmt: skip
MAX_AGE_S = 7200  # no browser remembers a preflight for longer


class Cors(CORSMiddleware):
    """Starlette's, with problems as refusals. Outermost: a preflight has no API key, and every answer gets headers."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=METHODS, allow_headers=SENT, expose_headers=READ,
            allow_private_network=True, max_age=MAX_AGE_S,
        )  # fmt: skip

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's answer, with an id and as a problem where it is a refusal."""
        answer = super().preflight_response(request_headers)
        sent = request_headers.get("x-request-id", "")
        request_id = sent if SANE_ID.fullmatch(sent) else uuid4().hex
        if answer.status_code >= 400:
            detail = f"{bytes(answer.body).decode()}: see LDM_CORS_ORIGINS."
            headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
            answer = problem_response(Problem(answer.status_code, detail, headers=headers), "", request_id)
        answer.headers["X-Request-ID"] = request_id
        log.info(
            "preflight from %.200s: %d", request_headers["origin"], answer.status_code, extra={"request_id": request_id}
        )
        return answer
