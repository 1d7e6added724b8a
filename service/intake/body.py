"""Reads a request's body, JSON or multipart, into one of the request models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile

from service.errors import Problem
from service.http.memory import LARGE
from service.intake.schemas import JobRequest
from service.intake.strict_json import field_problem, not_json, parse, pointer_part

SMALL = 16 * 2**10  # bytes
MAX_FILES = 24
MAX_ERRORS = 20  # that an answer lists
UTF_8 = {b"utf-8", b"utf8", b"us-ascii", b"ascii"}
LISTS = ("neighbors", "image[]")  # form fields that may be repeated
KINDS = ("application/json", "multipart/form-data")

Model = TypeVar("Model", bound=JobRequest)
Fields = TypeVar("Fields", bound=BaseModel)


async def read_body(request: Request, model: type[Model], kinds: Sequence[str] = KINDS) -> Model:
    """Raises Problem: 400 for what cannot be parsed, 415 for another content type, 422 naming each field at fault."""
    kind = _content_type(request)
    if kind.decode("latin-1") not in kinds:
        raise Problem(415, f"Send {' or '.join(kinds)}.", headers={"Accept": ", ".join(kinds)})
    if kind == b"application/json":
        return _validated(model, await read_json(request), strict=True)
    # every form field is text: "20" is a number there
    return _validated(model, await _form(request), strict=False)


def read_fields(model: type[Model], data: Mapping[str, Any]) -> Model:
    """The same of fields that stand inside a body that is parsed already. Raises Problem 422."""
    return _validated(model, {**data}, strict=True)


async def read_json(request: Request) -> dict[str, Any]:
    """A body that is a JSON object. Raises Problem: 400 for what cannot be parsed, 415, 422."""
    if _content_type(request) != b"application/json":
        raise Problem(415, "Send application/json.", headers={"Accept": "application/json"})
    body = bytearray()
    async for part in request.stream():  # request.body() would keep two copies as long as the request lives
        body += part
    # a body with images is parsed in a thread; a small one shall not wait behind large ones
    data = _parsed(body) if len(body) <= SMALL else await to_thread.run_sync(_parsed, body, limiter=LARGE)
    if not isinstance(data, dict):
        raise Problem(422, "The body must be a JSON object.", errors=[("", "must be an object")])
    return data


def _content_type(request: Request) -> bytes:
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if parameters.get(b"charset", b"utf-8").lower() not in UTF_8:
        raise Problem(415, "Send it in UTF-8.", headers={"Accept-Charset": "utf-8"})
    return kind


def _parsed(body: bytearray) -> Any:
    """Frees `body` before the parser makes another copy of what is in it."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise not_json(f"byte {error.start} is not UTF-8") from None
    body.clear()
    return parse(text)


async def _form(request: Request) -> dict[str, Any]:
    data: dict[str, Any] = {}
    async with request.form(max_files=MAX_FILES, max_fields=64) as form:
        for name, value in form.multi_items():
            part = await _part(value)
            if name in LISTS:
                if part != "":
                    data.setdefault(name, []).append(part)
                continue
            if name in data:
                raise field_problem(name, "is given twice")
            data[name] = part
    for name in ("metadata", "objects"):
        if isinstance(data.get(name), str) and data[name] != "":
            try:
                data[name] = parse(data[name])
            except Problem:
                raise field_problem(name, "must be JSON") from None
    return data


async def _part(value: UploadFile | str) -> bytes | str:
    """A file's bytes or a field's text. Browsers send an empty part without a name where no file was chosen."""
    if isinstance(value, str):
        return value
    return await value.read() or (b"" if value.filename else "")


def _validated(model: type[Model], data: dict[str, Any], *, strict: bool) -> Model:
    if not strict:  # a form has no null: what is empty in it is left out
        data = {name: value for name, value in data.items() if value != "" or name not in model.model_fields}
    return validated(model, data, strict=strict)


def validated(model: type[Fields], data: dict[str, Any], *, strict: bool) -> Fields:
    """Raises Problem 422 naming each field at fault."""
    try:
        return model.model_validate(data, strict=strict)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        errors = list(dict.fromkeys((_pointer(problem["loc"]), _detail(problem)) for problem in problems))
        first = f"{errors[0][0].removeprefix('/') or 'a name'}: {errors[0][1]}"
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Problem(422, first + more, errors=errors[:MAX_ERRORS]) from None


def _pointer(location: tuple[int | str, ...]) -> str:
    """A JSON pointer to the field; a union's branches, which pydantic adds below it, are no part of it."""
    depth = {"metadata": 2, "neighbors": 2, "objects": 3}.get(str(location[0]), 1) if location else 0
    return "".join(f"/{pointer_part(str(part))}" for part in location[:depth])


def _detail(problem: Any) -> str:
    match problem["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field of this request"
        case "value_error":
            return str(problem["ctx"]["error"])
        case _:
            message = str(problem["msg"])
            return message.replace("Input should", "should").replace("String should", "should")
