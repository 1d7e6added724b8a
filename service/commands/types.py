"""Types of options, as argparse takes them. Imports nothing of ours."""

from __future__ import annotations

import argparse
from pathlib import Path


def given(text: str) -> str:
    """For options that take a path: an empty one would mean the current directory. Raises ArgumentTypeError."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, got an empty one")
    return text


def path(text: str) -> Path:
    """The same as a Path."""
    return Path(given(text))


def pair(text: str) -> tuple[str, str]:
    """KEY=VALUE. Raises ArgumentTypeError."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    return key, value
