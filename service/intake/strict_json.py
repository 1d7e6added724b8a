"""JSON from outside, read by Python's parser: pydantic's keeps the last of two equal names and says nothing of it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from service.errors import Problem

MAX_VALUES = 10_000  # the largest request, a layout of 1,000 objects, has 6,000; each costs a hundred times its bytes
MAX_EXACT = 2**53  # up to here a float says which integer it is


def parse(text: str) -> Any:
    """Raises Problem: 400 for what is no JSON, 422 for a name given twice and for too many values."""
    if text.count(",") > MAX_VALUES:
        detail = f"must have at most {MAX_VALUES} values"
        raise Problem(422, f"The body {detail}.", errors=[("", detail)])
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_number, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise not_json(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):  # among them numbers of more digits than are worth reading
        raise not_json("") from None


def not_json(where: str) -> Problem:
    """A 400; `where` the parser stopped, if that is known."""
    return Problem(400, f"The body is not valid JSON ({where})." if where else "The body is not valid JSON.")


def field_problem(name: str, detail: str) -> Problem:
    """A 422 for one field of a request."""
    return Problem(422, f"{clipped(name)}: {detail}", errors=[(f"/{pointer_part(name)}", detail)])


def pointer_part(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return clipped(name).replace("~", "~0").replace("/", "~1")


def clipped(name: str) -> str:
    """A name that a client made up, in a length and in characters that an answer can have."""
    return name[:80].encode(errors="replace").decode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values counts is a question that readers of JSON answer differently."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise field_problem(name, "is given twice")
        found[name] = value
    return found


def _number(text: str) -> int | float:
    """JSON has one kind of number: what some writers call 20.0 is an integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < MAX_EXACT else value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
