"""Threads without which a worker is useless: when one dies, so does the process, and its jobs go elsewhere."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_BAD_SETTING = 2  # no use in starting again
EXIT_BROKEN_MODEL = 3  # likewise
EXIT_OTHER_WEIGHTS = 4  # likewise, while a worker with other weights under the same model id lives
EXIT_HUNG = 70  # the device hangs or one of our threads died; a new process may do better
EXIT_DEVICE_LOST = 71  # the device refuses all work; a new process may do better, its jobs are given back


def start_vital(
    name: str, target: Callable[[], object], on_error: Callable[[BaseException], object] | None = None
) -> threading.Thread:
    """Starts `target` in a daemon thread; an exception that leaves it ends the process, or is given to `on_error`."""

    def run() -> None:
        try:
            target()
        except BaseException as error:
            log.critical("thread %s died", name, exc_info=True)
            give_up() if on_error is None else on_error(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def give_up(code: int = EXIT_HUNG) -> NoReturn:
    """Ends the process at once, past every thread that hangs."""
    logging.shutdown()
    os._exit(code)
