"""What a scenario found out: one line of the table each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`ok` is False for a miss; a figure without a limit is there to be read and is always ok."""

    scenario: str
    what: str
    asked: str
    measured: str
    ok: bool = True


def at_most(scenario: str, what: str, measured: float, limit: float, unit: str = "") -> Figure:
    """A figure with an upper limit."""
    return Figure(scenario, what, f"<= {limit:g}{unit}", f"{measured:.3g}{unit}", measured <= limit)


def exactly(scenario: str, what: str, measured: int, wanted: int) -> Figure:
    """A count that must be right."""
    return Figure(scenario, what, str(wanted), str(measured), measured == wanted)


def table(figures: Sequence[Figure]) -> str:
    """All of them, in columns."""
    head = ("scenario", "figure", "asked", "measured", "ok")
    rows = [head, *((f.scenario, f.what, f.asked, f.measured, "ok" if f.ok else "MISS") for f in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
