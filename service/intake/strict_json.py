"""JSON from outside: RFC 8259 to the letter, nothing given twice, and no more values than a request can have."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from service.errors import Problem

MAX_VALUES = 10_000  # the largest request, a layout of 1,000 things, has 6,000; each costs a hundred times its bytes
MAX_EXACT = 2**53  # up to here a float says which integer it is
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # the escape of half a surrogate pair; two of them can be a character


def parse(raw: bytes | str) -> Any:
    """Raises Problem: 400 for what is no JSON; 422 for what has a field twice, or text that is none."""
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        if text.count(",") > MAX_VALUES:
            detail = f"must have at most {MAX_VALUES} values"
            raise Problem(422, f"The body {detail}.", errors=[("", detail)])
        data = json.loads(text, object_pairs_hook=_unique, parse_float=_number, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # among them numbers of more digits than are worth reading
        raise Problem(400, "The body is not valid JSON.") from None
    if HALF_PAIR.search(text):
        _check_encodable(data)
    return data


def field_problem(name: str, detail: str) -> Problem:
    """A 422 for one field of a request."""
    return Problem(422, f"{clipped(name)}: {detail}", errors=[(f"/{pointer_part(name)}", detail)])


def pointer_part(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return clipped(name).replace("~", "~0").replace("/", "~1")


def clipped(name: str, length: int = 80) -> str:
    """A client's own name for something, in a length and in characters that an answer can have."""
    return name[:length].encode(errors="replace").decode()


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


def _check_encodable(data: Any) -> None:
    for name, value in data.items() if isinstance(data, dict) else [("", data)]:
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise field_problem(name, "has half of a surrogate pair, which is no character") from None
