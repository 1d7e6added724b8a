"""A gateway process as an operator starts it, and a worker that is only announced: jobs are taken and never run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from tests.end_to_end.serving import ROOT, eventually, free_port
from worker.process.embedded_redis import EmbeddedRedis
from worker.store.keys import Key

SHARED = {"native_size": [64, 64], "size_multiple": 16, "max_pixels": 65536, "default_steps": 4,
          "default_guidance_scale": 3.0}  # fmt: skip
CARDS: list[dict[str, Any]] = [
    {"id": "toy", "tasks": ["txt2img", "inpaint", "unconditional"], "default_for": ["txt2img"], **SHARED},
    {"id": "large", "tasks": ["superres"], "scale": 4, **SHARED},
    {"id": "classes", "tasks": ["class2img"], "label_count": 10, "text": False, **SHARED},
    {"id": "maps", "tasks": ["semantic2img"], "label_count": 10, "text": False, **SHARED},
    {"id": "things", "tasks": ["layout2img"], "label_count": 10, "max_objects": 30, "text": False, **SHARED},
    {"id": "neighbourly", "tasks": ["txt2img"], "max_neighbors": 4, "neighbor_size": 32, **SHARED},
]


def announce(redis_url: str) -> None:
    """Writes what a live worker would: models for every task."""
    with Redis.from_url(redis_url) as redis:
        redis.sadd(Key.WORKERS, "nobody")
        redis.set(Key.CARDS.of("nobody"), json.dumps(CARDS))


class Gateway:
    """One `ldm gateway`; `ulimit` are that command's arguments for it."""

    def __init__(self, redis_url: str, directory: Path, *, ulimit: str = "", **settings: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / f"gateway-{self.port}.log"
        given = {"redis_url": redis_url, "data_dir": directory, "port": self.port, "log_format": "text",
                 "allowed_hosts": "*", **settings}  # fmt: skip
        env = os.environ | {f"LDM_{key.upper()}": str(value) for key, value in given.items()}
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "service", "gateway"]
            if ulimit:
                command = ["/bin/sh", "-c", f'ulimit {ulimit} && exec "$@"', "sh", *command]
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        return self._log.read_text(errors="surrogateescape")

    def connect(self) -> socket.socket:
        """A connection to write to byte by byte."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def alone(**settings: Any) -> Iterator[Gateway]:
    """A gateway with a Redis and a folder of its own, for what runs without pytest."""
    with tempfile.TemporaryDirectory(prefix="ldm-abuse-") as directory:
        redis = EmbeddedRedis(Path(directory) / "redis")
        redis.start()
        announce(redis.url)
        gateway = Gateway(redis.url, Path(directory), **settings)
        try:
            yield gateway
        finally:
            gateway.stop()
            redis.stop()
