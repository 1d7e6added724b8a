"""What goes wrong, as exceptions: one for each answer that a program may want to tell from the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx


class FieldError(NamedTuple):
    """One field of a request at fault; `pointer` is a JSON pointer to it, such as `/steps`."""

    pointer: str
    detail: str


class LdmError(Exception):
    """Anything that this client raises about a server or a job."""


class ConnectionFailed(LdmError):
    """The server cannot be reached, or connections to it broke, for longer than `retry_for`."""


class WaitTimeout(LdmError, TimeoutError):
    """`wait` took longer than its `timeout`; the job goes on."""


class JobCancelled(LdmError):
    """A job that was waited for has been cancelled."""


class ProblemError(LdmError):
    """What the server says is wrong: `problem` is all of it (RFC 9457).

    `detail`: a sentence; `errors`: the fields at fault.
    """

    def __init__(self, what: str, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        self.detail = str(problem.get("detail") or problem.get("title") or "no reason given")
        self.errors = [FieldError(e.get("pointer", ""), e.get("detail", "")) for e in problem.get("errors") or ()]
        super().__init__(f"{what}: {self.detail}")

    @property
    def pointers(self) -> list[str]:
        """JSON pointers to the fields at fault."""
        return [error.pointer for error in self.errors]


class JobFailed(ProblemError):
    """A job that was waited for has ended without images."""


class ApiError(ProblemError):
    """An error answer; `request_id` is what the server's log calls it, `retry_after` in seconds, where it is named."""

    def __init__(self, status: int, problem: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(str(status), problem)
        self.status, self.request_id = status, headers.get("x-request-id", "")
        after = headers.get("retry-after", "")
        self.retry_after = float(after) if after.isdecimal() else None  # a date counts as none


class Unauthorized(ApiError):
    """401: no API key, or an unknown one."""


class Forbidden(ApiError):
    """403: the API key may not do this."""


class NotFound(ApiError):
    """404: unknown, expired, or another key's."""


class ValidationError(ApiError):
    """422: fields are at fault, each one named in `errors`."""


class RateLimited(ApiError):
    """429: the queue is full, or the API key is over a limit of its own."""


class Unavailable(ApiError):
    """503: the queue or the model's workers are away for now."""


KINDS: dict[int, type[ApiError]] = {
    401: Unauthorized, 403: Forbidden, 404: NotFound, 422: ValidationError, 429: RateLimited, 503: Unavailable,
}  # fmt: skip


def error_of(response: httpx.Response) -> ApiError:
    """The error that an answer with another status than 2xx is."""
    problem = _json(response)
    if not isinstance(problem, dict):  # of something between us and the server
        problem = {"title": response.reason_phrase, "detail": response.text[:200]}
    return KINDS.get(response.status_code, ApiError)(response.status_code, problem, response.headers)


def object_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer. Raises ApiError where it is none."""
    data = _json(response)
    if isinstance(data, dict):
        return data
    detail = f"The answer is no JSON object; is {response.url} an ldm-service?"
    raise ApiError(response.status_code, {"detail": detail}, response.headers)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
