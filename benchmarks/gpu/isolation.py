"""Stages one after the other, each in a process of its own: one that fails, hangs or loses the GPU takes none along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

TOLD = 3  # exit code of a process that has said itself what failed
LEAST_S = 1.0  # no stage begins with less time than that
SHOWN = 800  # characters of what a failed process wrote last


def say(**result: object) -> None:
    """One result, a line by itself: what has been measured stays when time runs out."""
    print(json.dumps(result), flush=True)


def run_stages(commands: Mapping[str, Sequence[str]], weights: Mapping[str, float], budget_s: float) -> bool:
    """Runs the command of each stage. Returns whether all of them ended well.

    A stage may take the share of the time left that its weight is of the weights left; what it does not use is for
    those behind it. Prints a line for each stage, and why it failed if it did.
    """
    ends_at, ok = time.monotonic() + budget_s, True
    for place, (stage, command) in enumerate(commands.items()):
        share = weights[stage] / sum(weights[each] for each in [*commands][place:])
        began, limit_s = time.monotonic(), share * (ends_at - time.monotonic())
        failed = "no time is left" if limit_s < LEAST_S else run_alone(command, limit_s)
        result = {"stage": stage, "took_s": round(time.monotonic() - began, 1)}
        say(**result, **({} if failed is None else {"failed": failed}))
        ok &= failed is None
    return ok


def run_alone(command: Sequence[str], limit_s: float) -> str | None:
    """Runs a command for at most `limit_s` seconds, then ends it with its children. Returns why it failed."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"ended after {limit_s:.0f} s: its time was up. {_last_words(errors)}".strip()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            _pass_on(errors)
        if code == TOLD:
            return "a line above says why"
        return None if code == 0 else f"exit code {code}. {_last_words(errors)}".strip()


def _pass_on(errors: IO[bytes]) -> None:
    errors.seek(0)
    sys.stderr.write(errors.read().decode(errors="replace"))
    sys.stderr.flush()


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()[-SHOWN:]
