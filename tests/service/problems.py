"""What every error answer has to be."""

from __future__ import annotations

from typing import Any

import httpx

FIELDS = {"type", "title", "status", "detail", "instance", "request_id"}


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Checks the problem, and gives it back."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = dict(answer.json())
    assert set(problem) >= FIELDS
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def assert_refused(answer: httpx.Response, pointer: str, detail: str) -> None:
    """Checks that a 422 names the field and, in `detail`, its limit."""
    errors = {error["pointer"]: error["detail"] for error in assert_problem(answer, 422)["errors"]}
    assert pointer in errors, errors
    assert detail in errors[pointer]
    assert len(answer.content) < 2000
