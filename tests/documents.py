"""The examples that README.md and the pages of docs/ hold, as a reader would copy them.

A comment above a block says what a test does with it:

- none: it runs `sh`, `python` and `js`, in the order of the page, and parses `json`, `toml` and `yaml`;
- `file: NAME`: the block is a file, which the blocks below it find;
- `output`: what the block above it prints; `…` stands for anything;
- `fails`: its last command must fail;
- `checked`: it cannot run here; each command is one that its program takes;
- `run by TEST`: that file of tests runs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAMS = ("make", "ldm", "curl", "docker", "kubectl", "python", "pytest", "pip", "export", "time")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page, with what the comment above it says."""

    page: Path
    line: int
    marker: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in its order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1] or "", found[2], found[3])
        for found in MARKED.finditer(text)
    ]


def blocks(language: str, page: Path = README) -> list[str]:
    """The texts of a page's blocks in one language."""
    return [block.text for block in blocks_of(page) if block.language == language]


def lines_of(text: str) -> list[str]:
    """The commands of a block, one line each."""
    lines = text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def commands(page: Path = README) -> list[str]:
    """Every command of a page, one line each: those of `sh` blocks, and those that a sentence or a table quotes."""
    return [line for block in blocks("sh", page) for line in lines_of(block)] + quoted(page)


def quoted(page: Path) -> list[str]:
    """The commands that the sentences and tables of a page quote."""
    prose = BLOCK.sub("", page.read_text())
    found = [text for text in INLINE.findall(prose) if text.split()[0] in PROGRAMS and " " in text]
    return [" ".join(line.split()) for line in found]
