"""What `ldm doctor` finds: one line for each check. Imports nothing of ours: it has to work where much is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

State = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """`todo` says what to do about a warning or an error."""

    check: str
    state: State
    said: str
    todo: str = ""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, said: str) -> Finding:
    return Finding(check, "ok", said)


def warning(check: str, said: str, todo: str) -> Finding:
    return Finding(check, "warning", said, todo)


def error(check: str, said: str, todo: str) -> Finding:
    return Finding(check, "error", said, todo)


def examined(checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Findings of all checks; one that breaks is a finding too, and the others go on."""
    for name, check in checks:
        try:
            yield from check()
        except ImportError as missing:
            yield error(name, f"could not be looked at: {missing}", "install again: make install, or pip install .")
        except Exception as broken:
            yield error(name, f"could not be looked at: {type(broken).__name__}: {broken}", "report this")
