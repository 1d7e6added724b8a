"""What a person sees of a job, on stderr: a bar with step, rate and ETA in a terminal, a few lines elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from service.commands.graphics import protocol
from service.commands.stop import say

PREVIEW_LINES, IMAGE_LINES = 8, 16  # of the terminal
SAVE, RESTORE = b"\x1b7", b"\x1b8"  # the cursor's place
QUARTERS = 4  # where there is no bar, a line for each of them


class Rate(ProgressColumn):
    """Steps in a second, or seconds of a step."""

    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step")


class Screen:
    """Shows one job. Whatever is shown goes to stderr, images only where that is a terminal that shows them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._quiet, self._show = bool(args.quiet), bool(getattr(args, "show", False))
        self._protocol = protocol(getattr(args, "graphics", "off"), os.environ)
        asked: bool | None = getattr(args, "preview", None)
        self.previews = self._protocol is not None and not self._quiet and asked is not False
        if (asked or self._show) and self._protocol is None:
            say(
                "warning: images cannot be shown here: stderr is no terminal that is known to show any (see --graphics)"
            )
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._told = -1  # quarters
        self._said: set[Any] = set()  # statuses and warnings

    @property
    def shows(self) -> bool:
        return self._show and self._protocol is not None

    def say(self, text: str) -> None:
        """A line about the job, once."""
        if not self._quiet and text not in self._said:
            self._said.add(text)
            self._print(text)

    def warn(self, warnings: Iterable[tuple[str, str, str]], flag_of: Any) -> None:
        """Each of a job's warnings, once: (code, detail, pointer)."""
        for code, detail, pointer in warnings:
            if (code, pointer, detail) not in self._said:
                self._said.add((code, pointer, detail))
                about = f"{flag_of(pointer.lstrip('/'))}: " if pointer else ""
                self._print(f"warning: {about}{detail}")

    def step(self, step: int, steps: int) -> None:
        """The job has done `step` of its `steps`."""
        if self._quiet or not steps:
            return
        if sys.stderr.isatty():
            bar = self._started(steps)
            bar.update(self._task, completed=step, total=steps, refresh=True)
        elif (quarter := step * QUARTERS // steps) > self._told:
            self._told = quarter
            say(f"step {step} of {steps}")

    def preview(self, data: bytes) -> None:
        """Shows a small image above the bar, in place of the one before."""
        if self._protocol is None or self._bar is None:
            return
        up = b"\x1b[%dA\r" % PREVIEW_LINES
        self._write(SAVE + up + self._protocol(data, PREVIEW_LINES, True) + RESTORE)

    def image(self, data: bytes) -> None:
        """Shows a finished image."""
        if self.shows and self._protocol is not None:
            self._write(self._protocol(data, IMAGE_LINES, False) + b"\r\n")

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _started(self, steps: int) -> Progress:
        if self._bar is None:
            if self.previews:
                self._write(b"\n" * PREVIEW_LINES)
            count = TextColumn("step {task.completed:.0f}/{task.total:.0f}")
            columns = [count, BarColumn(), Rate(), TextColumn("ETA"), TimeRemainingColumn()]
            # drawn by this thread alone, so that nothing comes between an image and the cursor's way back
            self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
            self._bar.start()
            self._task = self._bar.add_task("", total=steps)
        return self._bar

    def _print(self, text: str) -> None:
        if self._bar is None:
            say(text)
        else:
            self._bar.console.print(f"ldm: {text}", markup=False, highlight=False)
            self._bar.refresh()

    def _write(self, data: bytes) -> None:
        sys.stderr.flush()
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
