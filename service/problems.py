"""Errors as clients read them (RFC 9457), and as the OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One field at fault."""

    pointer: str = Field(description="a JSON pointer to the field; empty for the whole body")
    detail: str


class OpenAIError(BaseModel):
    """The same error in the form that OpenAI's clients read."""

    message: str
    type: str
    param: str | None = Field(description="the first field at fault")
    code: str


class JobError(BaseModel):
    """Why a job failed, as a problem (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None


class Problem(JobError):
    """An error answer (RFC 9457)."""

    request_id: str = Field(description="under which the logs have the request")
    error: OpenAIError | None = Field(default=None, description="on the routes of OpenAI's Images API")


ERROR_TYPES = {429: "rate_limit_error"}  # others: the client is at fault below 500, the server from there on
ERROR_CODES = {
    401: "invalid_api_key", 403: "forbidden", 404: "not_found", 413: "body_too_large", 422: "invalid_value",
    429: "rate_limit_exceeded", 503: "overloaded", 504: "timeout",
}  # fmt: skip


def openai_error(status: int, message: str, pointers: Sequence[str] = ()) -> OpenAIError:
    """`pointers` are JSON pointers to the fields at fault."""
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = ERROR_CODES.get(status, "invalid_request" if status < 500 else "server_error")
    return OpenAIError(message=message, type=kind, param=pointers[0][1:] or None if pointers else None, code=code)
