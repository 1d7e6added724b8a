"""Reads a yaml that somebody else wrote: as data, and of a bounded size, its aliases written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ldm_core.errors import ModelError
from ldm_core.weights.file_kinds import NOT_THE_FILE, refuse_by_head

MAX_BYTES = 100_000  # published ones have 3,000
MAX_NODES = 20_000  # when every alias is written out
LONG = 100  # characters of a text that count as one value more


def load_yaml(path: Path) -> Any:
    """What a yaml file holds, nothing but data. Raises ModelError, before it is expanded, for a bomb of aliases."""
    return _load(path, _text(path))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ModelError(path, "is missing") from None
    except OSError as error:
        raise ModelError(path, f"cannot be read: {error.strerror or error}") from None
    refuse_by_head(path, data, NOT_THE_FILE)
    if b"\0" in data:
        raise ModelError(path, "is no text, so it is not the yaml of a checkpoint")
    if len(data) > MAX_BYTES:
        raise ModelError(path, f"has more than {MAX_BYTES} bytes, which no configuration has")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ModelError(path, "is no text in UTF-8, so it is not the yaml of a checkpoint") from None


def _load(path: Path, text: str) -> Any:
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _nodes(root, {}) > MAX_NODES:
            raise ModelError(path, f"has more than {MAX_NODES} values when its aliases are written out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # a date or a number can be none
        raise ModelError(path, f"cannot be read: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise ModelError(path, "is nested too deeply to be a configuration") from None


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node has below it, an alias counting as what it stands for, long texts as several.

    Raises RecursionError for a circle.
    """
    if id(node) not in known:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value) // LONG
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(child,) for child in node.value]
        known[id(node)] = 1 + sum(_nodes(child, known) for pair in pairs for child in pair)
    return known[id(node)]
