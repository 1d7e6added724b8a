"""Holds values from JSON against the types and bounds that a dataclass declares for its fields. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ldm_core.errors import ModelError

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def check_fields(cls: type, values: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """`values` of fields of `cls`, lists as tuples. Raises ModelError naming file, key and what was wanted."""
    checked = {}
    for key, value in values.items():
        try:
            checked[key] = _adapter(cls, key).validate_python(_tuples(value))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            inside = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
            reason = problem["msg"][0].lower() + problem["msg"][1:]
            raise ModelError(path, f"{key}{inside} = {problem['input']!r:.60}: {reason}") from None
    return checked


@cache
def _adapter(cls: type, key: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(cls, include_extras=True)[key], config=STRICT)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
