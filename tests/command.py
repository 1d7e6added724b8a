"""`ldm` as a user types it: a process of its own, in a pipe or in a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 180.0  # generous: it only ends what would otherwise hang
IMAGE = re.compile(rb"\x1b_G|\x1b\]1337|\x1bPq")  # how an image begins, in each of the protocols


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "service", *arguments]


def environment(**given: str) -> dict[str, str]:
    """Without what the tests' own terminal and user have set."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LDM_", "KITTY", "TERM", "LC_"))}
    return kept | {"PYTHONPATH": path, "TERM": "xterm"} | given


def ldm(
    *arguments: str, cwd: Path, stdin: bytes | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    """One command with its output in pipes."""
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command(*arguments),
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        **given,
    )


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What it told its user."""
    return done.stderr.decode()


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> None:
        self.shown = b""
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execve(sys.executable, command(*arguments), environment(**env))

    def until(self, text: bytes) -> None:
        """Reads on until it has shown `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline and self._read(1.0) is not None, self.shown.decode(errors="replace")

    def press_ctrl_c(self) -> None:
        os.write(self._end, b"\x03")

    def exit_code(self) -> int:
        """Once it has ended by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(1.0) is not None:
            assert time.monotonic() < deadline, self.shown.decode(errors="replace")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, patience_s: float) -> bytes | None:
        """What comes next; None at the end."""
        if not select.select([self._end], [], [], patience_s)[0]:
            return b""
        try:
            data = os.read(self._end, 65536)
        except OSError:  # on Linux, the end of a terminal
            return None
        self.shown += data
        return data or None

    def close(self) -> None:
        os.close(self._end)


@contextmanager
def terminal(*arguments: str, cwd: Path, **env: str) -> Iterator[Terminal]:
    """One command in a terminal."""
    started = Terminal(arguments, cwd, env)
    try:
        yield started
    finally:
        started.close()
