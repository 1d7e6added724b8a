"""`ldm worker`: the prefork master. Imports once what workers need, forks one, and the next when that one dies.

The imports are most of a worker's start, so a new one serves within a second. A dead one's jobs go back to the queues
at once, where nobody else could know before its leases end.
"""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import queue
import signal
import socket
import sys
import time
from contextlib import suppress
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from uuid import uuid4

from redis.exceptions import RedisError

from worker.leasing.heartbeat import revoke
from worker.logs import set_up_logging
from worker.process.embedded_redis import die_with_parent
from worker.process.main import main as work
from worker.process.restarts import Restarts, how_it_ended
from worker.settings import WorkerSettings, read_settings
from worker.store.connection import connect
from worker.store.keys import Key
from worker.vital import EXIT_DEVICE_LOST

log = logging.getLogger("worker.process.prefork")  # also when it runs as __main__

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# how a process ends that ends itself; any other signal came from outside
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
LOOK_S = 1.0
VMSTAT = Path("/proc/vmstat")
FLUSH_S = 8.0  # at the end, beyond the drain: what a worker may take to write its outcomes
# where a fork after such imports is safe
PROCESSES = multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing.get_context("spawn")


class PreforkMaster:
    """One process that owns no device, and the worker that does."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url)
        self._name = settings.worker_name or f"{socket.gethostname()}-{uuid4().hex[:8]}"
        self._worker: BaseProcess | None = None
        self._dead: list[tuple[str, bool]] = []  # name, and whether it crashed
        self._stop_by = math.inf
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler

    def run(self) -> int:
        """Until a signal, or until a worker ends for good; the exit code is then the worker's."""
        gc.freeze()  # or the first collection in each worker would copy every page that it shares with this process
        for each in SIGNALS:
            signal.signal(each, self._on_stop)
        restarts = Restarts()
        for number in count(1):
            code, served = self._run_worker(f"{self._name}-{number}")
            pause_s = restarts.pause_s(served=served)
            if self._stopping():
                return 0
            if code == 0 or restarts.is_final(code):
                return code
            log.error("the worker ended with %s; starting it again", how_it_ended(code))
            with suppress(queue.Empty):
                self._wake.get(timeout=pause_s)
        raise AssertionError("there is always a next number")

    def _run_worker(self, name: str) -> tuple[int, bool]:
        """Runs one worker to its end: its exit code, and whether it ever served."""
        # a stop reaches this process or the worker, never half of both
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if self._stopping():
            return 0, False
        self._worker = worker = PROCESSES.Process(target=_work, args=(name,))
        worker.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        while worker.exitcode is None:
            before = out_of_memory_kills()
            worker.join(LOOK_S)
            self._revoke_dead()
            if time.monotonic() > self._stop_by:
                worker.kill()
        self._worker = None
        code = worker.exitcode
        if code == 0:
            return 0, True
        crashed = code > 0 or -code in CRASHES or (code == -signal.SIGKILL and out_of_memory_kills() > before)
        crashed &= code != EXIT_DEVICE_LOST  # no job's fault, should one of them not have been given back
        self._dead.append((name, crashed))
        return code, self._revoke_dead()

    def _revoke_dead(self) -> bool:
        """Gives the jobs of dead workers back, as soon as Redis answers; whether the last of them had ever served."""
        served = False
        with suppress(RedisError, OSError):
            while self._dead:
                name, crashed = self._dead[0]
                served = bool(self._redis.sismember(Key.WORKERS, name))
                revoke(self._redis, name, crashed=crashed)
                self._dead.pop(0)
        return served

    def _stopping(self) -> bool:
        return self._stop_by < math.inf

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        """Forwards SIGTERM and SIGINT: the first starts a drain, the second ends it."""
        self._stop_by = min(self._stop_by, time.monotonic() + self._settings.drain_s + FLUSH_S)
        if self._worker is not None:
            self._worker.terminate()
        self._wake.put(None)


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for memory since it started; 0 where it does not say."""
    with suppress(OSError):
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _work(name: str) -> None:
    """In the worker's process. A session of its own, so that Ctrl-C comes from the master alone, once."""
    os.setsid()
    die_with_parent()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ["LDM_WORKER_NAME"] = name
    sys.exit(work())


def main() -> int:
    """Exit codes are those of `worker.process.main`."""
    settings = read_settings(WorkerSettings)
    set_up_logging(settings.log_format)
    return PreforkMaster(settings).run()


if __name__ == "__main__":
    sys.exit(main())
