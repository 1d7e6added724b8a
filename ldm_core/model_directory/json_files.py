"""Reads and writes the JSON files of a model directory. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_core.errors import ModelError

MAX_BYTES = 16 * 2**20  # the index of the weights of a large model has 100 KB, a table of betas 20 KB


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError naming the file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(path, f"is larger than {MAX_BYTES // 2**20} MiB, which no configuration is")
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant)
    except FileNotFoundError:
        raise ModelError(path, "is missing") from None
    except RecursionError:
        raise ModelError(path, "cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(data, dict):
        raise ModelError(path, "is not a JSON object")
    return data


def _constant(name: str) -> float:
    """diffusers writes `-Infinity` where a solver has no lower bound; NaN says nothing anywhere."""
    if name == "NaN":
        raise ValueError("NaN is no value")
    return float(name)


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON object, and the folders that lead to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n")
