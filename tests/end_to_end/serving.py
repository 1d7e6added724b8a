"""`ldm serve` as a user starts it: real processes on a free port, with a folder of their own, each one counted."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0  # generous: it only ends what would otherwise hang
TERMINAL = {"succeeded", "failed", "cancelled"}

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """What `look` gives as soon as that is true."""
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def picture(width: int, height: int, mode: str = "RGB") -> bytes:
    """A PNG with something to see in it: two gradients; as a mask, a white square in the middle."""
    if mode == "L":
        image = Image.new("L", (width, height))
        image.paste(255, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    else:
        across, down = Image.linear_gradient("L").rotate(90), Image.linear_gradient("L")
        image = Image.merge("RGB", [band.resize((width, height)) for band in (across, down, across)])
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def base64_picture(width: int, height: int, mode: str = "RGB") -> str:
    return base64.b64encode(picture(width, height, mode)).decode()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Served:
    """One `ldm serve`. Its processes all carry a mark in their environment, so that none can be left unseen."""

    def __init__(
        self, data_dir: Path, models: Sequence[Path], port: int | None = None, threads: int = 1, **settings: Any
    ) -> None:
        self.port, self.metrics_port = port or free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self._mark = f"LDM_TEST_MARK={uuid4().hex}"
        self._log = data_dir.parent / f"{data_dir.name}.log"
        options = ["--port", str(self.port), "--data-dir", str(data_dir), "--device", "cpu"]
        options += [part for model in models for part in ("--model", str(model))]
        given = {"metrics_port": self.metrics_port, **settings}
        env = os.environ | {f"LDM_{key.upper()}": str(value) for key, value in given.items()}
        env |= dict([self._mark.split("=")]) | {"OMP_NUM_THREADS": str(threads)}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", *options], cwd=ROOT, env=env, stdout=log, stderr=log
            )
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log()
            try:
                return self.http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(ready)

    def log(self) -> str:
        return self._log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code; whatever does not end by itself is killed and fails the test."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def processes(self, part: str = "") -> list[int]:
        """The ids of all our processes that live and have `part` in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = self._mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if ours and part.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # not ours, or gone meanwhile
                continue
        return found

    def worker(self) -> int:
        """The id of the process that owns the device: the child of the master, which has the same command line."""
        pids = self.processes("worker.process.prefork")
        (worker,) = [pid for pid in pids if parent_of(pid) in pids]
        return worker

    def submit(self, task: str, **fields: Any) -> dict[str, Any]:
        answer = self.http.post(f"/v1/{task}", json=fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/jobs/{job_id}").raise_for_status().json())

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended."""
        return eventually(lambda: job if (job := self.job(job_id))["status"] in TERMINAL else None) or {}

    def running(self, job_id: str) -> dict[str, Any]:
        """The job once it has taken a step."""
        return eventually(lambda: job if (job := self.job(job_id))["step"] > 0 else None) or {}

    def image(self, job_id: str, index: int = 0) -> bytes:
        return self.http.get(f"/v1/jobs/{job_id}/images/{index}").raise_for_status().content

    def metrics(self) -> tuple[str, str]:
        """What gateway and worker tell Prometheus."""
        worker = f"http://127.0.0.1:{self.metrics_port}/metrics"
        return self.http.get("/metrics").raise_for_status().text, self.http.get(worker).raise_for_status().text


@contextmanager
def serving(data_dir: Path, models: Sequence[Path], **settings: Any) -> Iterator[Served]:
    """A service that is ready, and stopped in the end."""
    service = Served(data_dir, models, **settings)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()
