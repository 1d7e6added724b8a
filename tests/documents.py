"""The commands that README.md holds, as a reader would copy them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAMS = ("make", "ldm", "curl", "docker", "kubectl", "python", "pytest", "pip", "export", "time")


def blocks(language: str) -> list[str]:
    """The fenced blocks in one language."""
    return [text for named, text in BLOCK.findall(README.read_text()) if named == language]


def commands() -> list[str]:
    """Every command, one line each: those of `sh` blocks, and those that a sentence or a table quotes."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    prose = BLOCK.sub("", README.read_text())
    quoted = [text for text in INLINE.findall(prose) if text.split()[0] in PROGRAMS and " " in text]
    return [" ".join(line.split()) for line in [*lines, *quoted] if line.strip()]
