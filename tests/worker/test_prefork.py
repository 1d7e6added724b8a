"""The prefork master with real workers: what it does when one dies, and when it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.tiny import write_tiny_models
from tests.worker.processes import ROOT, eventually
from worker.process import prefork
from worker.vital import EXIT_BROKEN_MODEL

pytestmark = pytest.mark.slow

if sys.platform != "linux":
    pytest.skip("finds processes in /proc", allow_module_level=True)


def start(redis_url: str, data_dir: Path, model: Path, **settings: Any) -> subprocess.Popen[bytes]:
    given = {
        "redis_url": redis_url, "data_dir": data_dir, "model": model, "device": "cpu", "metrics_port": 0,
        "worker_name": "kept", "drain_s": 1, "log_format": "text", **settings,
    }  # fmt: skip
    env = os.environ | {f"LDM_{key.upper()}": str(value) for key, value in given.items()} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "worker.process.prefork"], cwd=ROOT, env=env)


@pytest.fixture
def kept(redis_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(redis_url, tmp_path, write_tiny_models(tmp_path / "models")[0])
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(20)


def serving(redis: Redis) -> dict[str, int]:
    """The process ids of the workers that serve, by name."""
    names = [name.decode() for name in redis.smembers("ldm:workers")]
    return {name: int(pid) for name in names if (pid := redis.hget(f"rq:worker:{name}", "pid"))}


def test_a_dead_worker_is_forgotten_and_the_next_one_serves_under_a_new_name(
    kept: subprocess.Popen[bytes], redis: Redis
) -> None:
    first = eventually(lambda: serving(redis), 60)
    assert set(first) == {"kept-1"}
    os.kill(first["kept-1"], signal.SIGKILL)
    second = eventually(lambda: "kept-2" in (now := serving(redis)) and now, 60)
    assert set(second) == {"kept-2"}
    assert not redis.exists("ldm:worker:kept-1", "rq:worker:kept-1")
    kept.terminate()
    assert kept.wait(20) == 0
    assert not serving(redis)


def test_a_worker_ends_with_its_master(kept: subprocess.Popen[bytes], redis: Redis) -> None:
    (worker,) = eventually(lambda: serving(redis), 60).values()
    kept.kill()
    kept.wait()
    eventually(lambda: not Path(f"/proc/{worker}").exists())
    assert not serving(redis)  # it has drained: no lease has to run out


def test_a_model_that_cannot_be_loaded_is_not_tried_again(redis_url: str, tmp_path: Path) -> None:
    assert start(redis_url, tmp_path, tmp_path / "nowhere").wait(60) == EXIT_BROKEN_MODEL


def test_what_is_forked_has_touched_no_device_and_started_no_thread() -> None:
    module = "worker.process.prefork"
    program = f"import {module}, torch, threading; print(torch.cuda.is_initialized(), threading.active_count())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]


def test_the_kernel_says_how_often_it_killed_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it kills a worker cannot be brought about here without hurting others."""
    assert prefork.out_of_memory_kills() >= 0
    monkeypatch.setattr(prefork, "VMSTAT", tmp_path / "vmstat")
    assert prefork.out_of_memory_kills() == 0
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\n")
    assert prefork.out_of_memory_kills() == 3
