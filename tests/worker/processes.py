"""Jobs to submit, and worker processes to start, kill and stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis import Redis

from ldm_core.params import GenerationParams
from worker.jobs import JobPayload

ROOT = Path(__file__).resolve().parents[2]


def payload(prompt: str = "", steps: int = 4, **given: Any) -> JobPayload:
    params = {"seed": 7, "n": 1} | {key: given.pop(key) for key in ("seed", "n", "guidance_scale") if key in given}
    size = {key: given.pop(key, 8) for key in ("width", "height")}
    wanted = GenerationParams(task="txt2img", **size, steps=steps, prompt=prompt, **{"guidance_scale": 1.0, **params})
    return JobPayload(**{"id": uuid4().hex, "model": "toy", "params": wanted, **given})


def eventually(holds: Callable[[], Any], patience_s: float = 15) -> Any:
    """Waits for a condition, and says what it was if it never comes true."""
    deadline = time.monotonic() + patience_s
    while not (value := holds()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return value


def rewrite(redis: Redis, job_id: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what the record of a job asks for."""
    function, instance, args, asked = json.loads(zlib.decompress(redis.hget(f"rq:job:{job_id}", "data") or b""))
    change(asked)
    redis.hset(f"rq:job:{job_id}", "data", zlib.compress(json.dumps([function, instance, args, asked]).encode()))


class WorkerProcess:
    """One scripted worker."""

    def __init__(self, redis_url: str, data_dir: Path, **settings: Any) -> None:
        self.name = str(settings.pop("worker_name", f"w-{uuid4().hex[:6]}"))
        given = {"redis_url": redis_url, "data_dir": data_dir, "worker_name": self.name, "drain_s": 10, **settings}
        env = os.environ | {f"LDM_{key.upper()}": str(value) for key, value in given.items()}
        self.log = data_dir / f"{self.name}.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "tests.worker.scripted"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def nothing_is_left(redis: Redis) -> bool:
    """No list, registry or set of ours still names a job as open."""
    lists = [key for pattern in ("rq:queue:*", "rq:wip:*", "rq:execution*") for key in redis.scan_iter(pattern)]
    return not lists and not redis.exists("ldm:open")
