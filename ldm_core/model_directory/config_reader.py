"""Reading one component's `config.json` into its dataclass: known keys are honoured, all others refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ldm_core.errors import ModelError
from ldm_core.model_directory.field_types import check_fields
from ldm_core.model_directory.json_files import read_json

Config = TypeVar("Config")
MAX_NUMBER, MAX_LEVELS = 2**20, 16


def read_config(
    cls: type[Config],
    data: Mapping[str, Any],
    path: str,
    *,
    fixed: Mapping[str, Sequence[Any] | None],
    choices: Mapping[str, Sequence[Any]] | None = None,
) -> Config:
    """Builds `cls` from a diffusers config. Keys with a leading underscore are bookkeeping and skipped.

    `fixed` lists, for keys that are known and have no field, the values that change nothing here, None for any;
    `choices` what the entries of a field may be. Raises ModelError naming file, key and value, also for one of another
    type than the field's.
    """
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key.startswith("_"):
            continue
        if key in known:
            values[key] = value
        elif key not in fixed:
            if value is not None:  # what a later version of the library added, and left out here
                raise ModelError(path, f"unknown key {key!r}")
        elif (allowed := fixed[key]) is not None and value not in allowed:
            raise ModelError(path, f"{key} = {value!r} is not supported (only {allowed[0]!r})")
    values = check_fields(cls, values, path)
    for key, known_entries in (choices or {}).items():
        for entry in _entries(values.get(key, ())):
            if entry not in known_entries:
                only = ", ".join(map(repr, known_entries))
                raise ModelError(path, f"{key} = {entry!r} is not supported (only {only})")
    return cls(**values)


def _entries(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


class ComponentNumbers:
    """A component's `config.json`, of which a few numbers count for the card. Raises ModelError."""

    def __init__(self, file: Path) -> None:
        self.file, self.data = file, read_json(file)

    def number(self, key: str, default: int) -> int:
        """A whole number from 1 on; `default` where there is none."""
        value = self.data.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= MAX_NUMBER:
            raise ModelError(self.file, f"{key} = {value!r:.60} is not a whole number from 1 to {MAX_NUMBER}")
        return value

    def levels(self, key: str, default: int) -> int:
        """How many levels a network has, by a key with one entry for each."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_LEVELS:
            raise ModelError(self.file, f"{key} = {value!r:.60} is not a list of 1 to {MAX_LEVELS} numbers")
        return len(value)

    def part(self, key: str) -> ComponentNumbers:
        """A configuration inside this one."""
        inside = copy(self)
        inside.data = self.data.get(key)  # type: ignore[assignment]
        if not isinstance(inside.data, dict):
            raise ModelError(self.file, f"{key} is not a JSON object")
        return inside
