"""Errors as RFC 9457 problems: one table from exception to status, one function that writes the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from ldm_core.errors import RequestError
from service import problems
from service.access.auth import Forbidden, Unauthorized
from service.access.quota import IdempotencyConflict, Refused, TooFast
from service.broker.availability import BrokerUnavailable
from service.broker.upkeep import NoRoom
from worker.store.records import UnreadableRecord

PROBLEM_JSON = "application/problem+json"
OPENAI_PATH = "/v1/images/"  # below it errors are also what OpenAI's clients read


class Problem(Exception):
    """An error answer, with a body as in `service/problems.py`. `errors`: (JSON pointer, detail) of each field."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, errors, dict(headers or {})


def problem_response(problem: Problem, instance: str, request_id: str) -> Response:
    """The answer for `problem` to a request for the path `instance`."""
    body = problems.Problem(
        type="about:blank",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        instance=instance,
        errors=[problems.FieldError(pointer=pointer, detail=detail) for pointer, detail in problem.errors] or None,
        request_id=request_id,
    ).model_dump(exclude_none=True)
    if OPENAI_PATH in instance:
        pointers = [pointer for pointer, _ in problem.errors]
        body["error"] = problems.openai_error(problem.status, problem.detail, pointers).model_dump()
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(content, problem.status, problem.headers, PROBLEM_JSON)


EXPECTED = (
    Problem, RequestError, RequestValidationError, Unauthorized, Forbidden, Refused, IdempotencyConflict,
    BrokerUnavailable, HTTPException, NoRoom, UnreadableRecord,
)  # fmt: skip


def as_problem(error: Exception) -> Problem:
    """The problem that answers an exception. For an unexpected one it shows nothing internal."""
    match error:
        case Problem():
            return error
        case RequestError():
            return Problem(422, str(error), errors=[(f"/{error.field}", error.detail)])
        case RequestValidationError():  # of a query; bodies are validated in `service/intake/body.py`
            errors = [(f"/{problem['loc'][-1]}", str(problem["msg"])) for problem in error.errors()]
            return Problem(422, f"{errors[0][0][1:]}: {errors[0][1]}", errors=errors)
        case Unauthorized():
            return Problem(401, f"{error}.", headers={"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return Problem(403, f"{error}.")
        case Refused():
            pace = error.pace.headers if isinstance(error, TooFast) else {}
            return Problem(429, f"{error}.", headers={"Retry-After": str(max(1, math.ceil(error.retry_after))), **pace})
        case IdempotencyConflict():
            return Problem(422, f"{error}.")
        case BrokerUnavailable():
            detail = "The job queue cannot be reached; try again in a moment."
            return Problem(503, detail, headers={"Retry-After": f"{error.retry_after:.0f}"})
        case NoRoom():
            return Problem(503, str(error), headers={"Retry-After": f"{error.retry_after:.0f}"})
        case UnreadableRecord():
            return Problem(500, str(error))
        case HTTPException():
            detail = str(error.detail) if error.status_code < 500 else "Internal server error."
            return Problem(error.status_code, detail, headers=error.headers)
        case _:
            return Problem(500, "Something went wrong here; the log has it under this request id.")


def install(app: FastAPI) -> None:
    """Answers every expected error with a problem; `service/http/middleware.py` answers the unexpected ones."""

    async def answer(request: Request, error: Exception) -> Response:
        problem, path = as_problem(error), request.scope["path"].removeprefix(request.scope["root_path"])
        unsaid = isinstance(error, HTTPException) and error.detail == HTTPStatus(error.status_code).phrase
        docs = f"{request.scope['root_path']}/docs lists all paths and methods."
        if problem.status == 405:  # of several routes on one path, the framework names the first one's methods
            problem.headers["Allow"] = ", ".join(_methods(app, path, problem.headers.get("Allow", "")))
            problem.detail = f"This path takes {problem.headers['Allow']} alone; {docs}" if unsaid else problem.detail
        elif problem.status == 404 and unsaid:
            problem.detail = f"There is no such path; {docs}"
        # `OPTIONS *` asks about the server, and no path of it (RFC 9110, section 9.3.7)
        if request.method == "OPTIONS" and (problem.status == 405 or path == "*"):
            return Response(status_code=204, headers=problem.headers)
        return problem_response(problem, request.url.path, request.state.request_id)

    for kind in EXPECTED:
        app.add_exception_handler(kind, answer)


def _methods(app: FastAPI, path: str, named: str) -> list[str]:
    """The methods of all routes on `path`; of a route outside the OpenAPI, those that the framework has `named`."""
    described = [routes for template, routes in app.openapi()["paths"].items() if compile_path(template)[0].match(path)]
    methods = {method.upper() for routes in described for method in routes} or {*named.split(", ")} - {""} or {"GET"}
    return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))
