"""Errors as clients read them (RFC 9457), and as the OpenAPI describes them."""

from __future__ import annotations

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One field at fault."""

    pointer: str = Field(description="a JSON pointer to the field; empty for the whole body")
    detail: str


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
