"""The names of a model's classes or labels, which checkpoints do not carry, from a file beside them."""

from __future__ import annotations

import json
from pathlib import Path

from ldm_core.errors import ModelError
from ldm_core.model_directory.card_reader import read_card
from ldm_core.model_directory.components import write_json


def write_labels(model: Path, file: Path) -> None:
    """Writes the names in `file` into the model's `service.json`. Raises ModelError unless there is one for each id."""
    labels, count = read_labels(file), read_card(model).label_count
    if len(labels) != count:
        raise ModelError(file, f"has {len(labels)} names; the model has {count} labels")
    write_json(model / "service.json", {"labels": labels})


def read_labels(file: Path) -> list[str]:
    """One name a line, or a JSON array of names, or a JSON object of names by id. Raises ModelError."""
    try:
        text = file.read_text(encoding="utf-8")
        names = json.loads(text) if text.lstrip()[:1] in {"[", "{"} else text.splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(file, f"cannot be read: {error}") from None
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ModelError(file, "must have one name a line, or a JSON array of names, or a JSON object of names by id")
    return [name.strip() for name in names]
