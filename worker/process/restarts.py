"""When a child process that ended starts again: one policy for `ldm serve` and for the prefork master."""

from __future__ import annotations

import signal

from worker.vital import EXIT_BAD_SETTING, EXIT_BROKEN_MODEL, EXIT_OTHER_WEIGHTS

FINAL = {EXIT_BAD_SETTING, EXIT_BROKEN_MODEL, EXIT_OTHER_WEIGHTS}  # the child has said why, and would say it again
BACK_OFF_S = (0.5, 10.0)


class Restarts:
    """Of one child: at once after a process that had served, else after a pause that doubles."""

    def __init__(self) -> None:
        self.ever_served = False
        self._back_off_s = BACK_OFF_S[0]

    def pause_s(self, *, served: bool) -> float:
        """Seconds until the next start, after a process that had served or not."""
        if served:
            self.ever_served, self._back_off_s = True, BACK_OFF_S[0]
            return 0.0
        pause_s, self._back_off_s = self._back_off_s, min(2 * self._back_off_s, BACK_OFF_S[1])
        return pause_s

    def is_final(self, code: int) -> bool:
        """Whether there is no use in another start. What the child once could, it may be able to do again."""
        return code in FINAL and not self.ever_served


def how_it_ended(code: int) -> str:
    """A child's exit code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
