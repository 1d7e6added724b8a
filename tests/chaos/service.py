"""`ldm serve` under fire: `Served`, with handles on each of its processes and on its Redis."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.end_to_end.serving import ROOT, Served, eventually, parent_of
from worker.store.connection import AWAY, connect
from worker.store.keys import Key

# jobs of a fraction of a second in batches of a few, many more of them than the default queue takes
SETTINGS = {"max_rows": 8, "queue_limit": 5000, "checkpoint_s": 0.3}


class Service(Served):
    """One service with all its processes, and workers beside it that no supervisor looks after."""

    def __init__(self, data_dir: Path, models: Sequence[Path], **settings: Any) -> None:
        self._settings = {**SETTINGS, **settings}
        super().__init__(data_dir, models, **self._settings)
        self.models = models
        self._beside: list[subprocess.Popen[bytes]] = []
        self.redis_url = f"unix://{data_dir / 'redis' / 'redis.sock'}"
        self.redis: Any = connect(self.redis_url)

    def add_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        """`ldm worker` on the same Redis; `stop` ends it too."""
        given = {
            "redis_url": self.redis_url, "data_dir": self.data_dir, "metrics_port": 0, "log_format": "text",
            "drain_s": 3, "model": ",".join(map(str, self.models)), "device": "cpu", **self._settings, **settings,
        }  # fmt: skip
        env = os.environ | {f"LDM_{key.upper()}": str(value) for key, value in given.items()}
        env |= dict([self._mark.split("=")]) | {"OMP_NUM_THREADS": "1"}
        with self._log.open("a") as log:
            command = [sys.executable, "-m", "service", "worker"]
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        self._beside.append(process)
        return process

    def stop(self, number: int = signal.SIGTERM) -> int:
        for process in self._beside:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
        self.redis.close()
        return super().stop(number)

    def serving(self) -> list[int]:
        """The ids of the worker processes that have told Redis that they serve, and live."""
        try:
            names = [name.decode() for name in self.redis.smembers(Key.WORKERS)]
            pids = [int(pid) for name in names if (pid := self.redis.hget(f"rq:worker:{name}", "pid"))]
        except AWAY:
            return []
        return [pid for pid in pids if alive(pid)]

    def wait_for_workers(self, count: int = 1) -> None:
        eventually(lambda: len(self.serving()) >= count)

    def master_of(self, worker: int) -> int:
        return parent_of(worker)

    def supervised_master(self) -> int:
        """The id of the prefork master that is the supervisor's child."""
        (master,) = [pid for pid in self.processes("worker.process.prefork") if parent_of(pid) == self.process.pid]
        return master

    def worker(self) -> int:
        """The supervised worker; there may be others beside it."""
        master = self.supervised_master()
        return eventually(
            lambda: next((p for p in self.processes("worker.process.prefork") if parent_of(p) == master), 0)
        )

    def gateway_pid(self) -> int | None:
        """The gateway's process id, while there is one."""
        return next(iter(self.processes("gateway")), None)

    def redis_pid(self) -> int | None:
        """The id of Redis's process, while it answers; its title has taken the place of our mark."""
        with suppress(*AWAY):
            return int(self.redis.info("server")["process_id"])
        return None

    def redis_answers(self) -> bool:
        with suppress(*AWAY):
            return bool(self.redis.ping())
        return False


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rss_mib(pid: int) -> float:
    """What a process has in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def kill(pid: int | None) -> bool:
    """kill -9; whether there was anybody."""
    try:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return pid is not None
