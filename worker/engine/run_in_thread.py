"""One pool of OpenMP threads at a time. No torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread that ends with it, and waits.

    Each thread that computes on a CPU keeps a pool of helpers until it ends. With more of them than cores GNU's OpenMP
    lets all of them sleep between any two operations: a step of `scenes` took 111 ms instead of 60 once the thread
    that had loaded it, or another that decoded, held a pool beside the one that steps.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # it is raised where it is waited for
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="run-in-thread", daemon=True)
    thread.start()
    thread.join()
    return outcome.result()
