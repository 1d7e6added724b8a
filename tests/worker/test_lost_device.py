"""A device that refuses all work ends its worker, whichever stage notices, and costs no job a retry."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redis import Redis

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.device_errors import NO_ENGINE, raise_if_lost
from ldm_core.errors import DeviceLost, NonFiniteLatents, OutOfMemory
from ldm_core.loading.model import load_model
from service.broker.broker import Broker
from tests.pretended_cuda import PretendedCuda, pretended_cuda
from tests.tiny import write_tiny_models
from tests.worker.engine_kit import TXT2IMG, Kept, job
from tests.worker.on_pretended_cuda import STAGES
from tests.worker.processes import ROOT, nothing_is_left, payload
from worker.engine.request import Failed, Finished
from worker.process.prefork import PreforkMaster
from worker.settings import WorkerSettings
from worker.store import scripts
from worker.vital import EXIT_DEVICE_LOST, EXIT_HUNG

CUDA = torch.device("cuda", 0)
# what of CUDA notices first, in its words
WORDS = {
    "begin": "uncorrectable ECC error encountered",
    "step": "Triton Error [CUDA]: an illegal memory access was encountered",
    "finish": "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def gpu(directories: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuda]:
    """The engine's kit takes its models from a GPU."""
    with pretended_cuda() as gpu:
        models = {path.name: load_model(path, "cuda") for path in directories}
        monkeypatch.setattr("tests.worker.engine_kit.tiny_models", lambda: models)
        yield gpu


def test_a_probe_tells_a_lost_device_from_a_failed_call(gpu: PretendedCuda) -> None:
    error = RuntimeError("CUDA error: invalid configuration argument")
    raise_if_lost(CUDA, error)
    for text in WORDS.values():
        gpu.lose(text)
        with pytest.raises(DeviceLost, match="cuda:0 is lost") as raised:
            raise_if_lost(CUDA, error)
        assert raised.value.__cause__ is error and text in str(raised.value)


def test_errors_that_say_what_they_are_cost_no_probe(gpu: PretendedCuda) -> None:
    with gpu.counting() as seen:
        for error in (NonFiniteLatents("at step 3"), torch.OutOfMemoryError("tried to allocate 9 GiB")):
            raise_if_lost(CUDA, error)
        raise_if_lost(torch.device("cpu"), RuntimeError("CUDA error"))
    assert not seen.crossings and not seen.launches


@pytest.mark.parametrize("stage", WORDS)
def test_every_stage_ends_the_device_thread(gpu: PretendedCuda, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        gpu.lose(WORDS[stage])
        torch.ones(1, device="cuda")

    monkeypatch.setattr(*STAGES[stage], lost)
    kept, died = Kept(), []

    def run() -> None:
        try:
            kept.engine.run()
        except DeviceLost as error:
            died.append(str(error))

    kept.engine.submit(job("a"))
    kept.engine.submit(job("b"))
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert len(died) == 1 and WORDS[stage] in died[0]
    assert kept.engine.unfinished() == ["a", "b"]
    assert not [event for event in kept.events if isinstance(event, Failed | Finished)]


def test_a_call_that_fails_on_a_healthy_device_fails_its_job_alone(
    gpu: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, begin = Kept(), tasks.begin

    def broken(model: Any, params: Any, *args: Any) -> Any:
        if params.seed == 1:
            raise RuntimeError("CUDA error: invalid configuration argument")
        return begin(model, params, *args)

    monkeypatch.setattr("ldm_core.tasks.begin", broken)
    kept.engine.submit(job("broken", seed=1))
    kept.engine.submit(job("mate", seed=2))
    kept.run_all()
    assert isinstance(kept.outcome("broken"), Failed) and isinstance(kept.outcome("mate"), Finished)


def test_no_engine_for_a_convolution_is_too_little_memory(gpu: PretendedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"GET was {NO_ENGINE} to execute this computation")

    monkeypatch.setattr(Denoiser, "step_group", full)
    kept = Kept()
    kept.engine.submit(job("a"))
    kept.run_all()
    failed = kept.outcome("a")
    assert isinstance(failed, Failed) and isinstance(failed.error, OutOfMemory) and not failed.retryable


def start(directories: list[Path], redis_url: str, data_dir: Path, lose: str = "") -> subprocess.Popen[bytes]:
    env = os.environ | {
        "LDM_REDIS_URL": redis_url, "LDM_DATA_DIR": str(data_dir), "LDM_MODEL": str(directories[0]),
        "LDM_DEVICE": "cuda", "LDM_DTYPE": "float32", "LDM_METRICS_PORT": "0", "OMP_NUM_THREADS": "1",
        "LDM_TEST_LOSE": lose,
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "tests.worker.on_pretended_cuda"], cwd=ROOT, env=env)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lose", [f"begin:2:{WORDS['begin']}", f"step:2:{WORDS['step']}", f"finish:1:{WORDS['finish']}"]
)
async def test_its_jobs_end_in_another_process_with_all_their_retries(
    directories: list[Path], broker: Broker, redis: Redis, redis_url: str, tmp_path: Path, lose: str
) -> None:
    jobs = [replace(payload(model="scenes"), params=replace(TXT2IMG, steps=4)) for _ in range(2)]
    ids = [(await broker.submit(one)).view.payload.id for one in jobs]
    first = start(directories, redis_url, tmp_path, lose)
    try:
        assert await asyncio.to_thread(first.wait, 60) == EXIT_DEVICE_LOST
    finally:
        first.kill()
    views = [await broker.job(job_id) for job_id in ids]
    assert [view.status for view in views if view] == ["queued", "queued"]
    assert {redis.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids} == {b"6"}
    second = start(directories, redis_url, tmp_path)
    try:
        ended = [await broker.wait(job_id, 90) for job_id in ids]
        assert [view.status for view in ended if view] == ["succeeded", "succeeded"]
        assert {redis.hget(f"rq:job:{job_id}", "retries_left") for job_id in ids} == {b"6"}
        assert nothing_is_left(redis)
    finally:
        second.kill()
        second.wait()


def admitted(redis: Redis, worker: str) -> list[bytes]:
    (taken,), _ = scripts.admit.run(
        redis, worker=worker, token=f"token-{worker}", lease=20, room=8, turn=0, format="here", held=0, max_rows=8,
        spare=2, models=["toy"], rows={},
    )  # fmt: skip
    return list(taken)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(("code", "left"), [(EXIT_DEVICE_LOST, b"5"), (EXIT_HUNG, b"2")])
async def test_the_prefork_master_takes_a_lost_device_for_no_crash(
    broker: Broker, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, code: int, left: bytes
) -> None:
    """What the worker could not give back itself, as Redis was away, costs what a kill from outside costs."""
    job_id = (await broker.submit(payload())).view.payload.id
    admitted(redis, "w")
    monkeypatch.setattr("worker.process.prefork.work", lambda: code)
    assert PreforkMaster(WorkerSettings(redis_url=redis_url))._run_worker("w")[0] == code
    assert redis.hget(f"rq:job:{job_id}", "retries_left") == left


async def test_a_job_that_loses_every_device_ends(broker: Broker, redis: Redis) -> None:
    """Two losses are free; from the third on the job pays as for a crash."""
    job_id = (await broker.submit(payload())).view.payload.id
    left = []
    for number in range(4):
        taken = admitted(redis, f"w{number}")
        held = [(taken[0].decode(), taken[2].decode())]
        assert scripts.surrender.run(redis, held=held, problem='{"detail": "lost"}') == 1
        left.append(redis.hget(f"rq:job:{job_id}", "retries_left"))
    assert left == [b"6", b"6", b"2", b"2"]
    view = await broker.job(job_id)
    assert view is not None and (view.status, view.error) == ("failed", {"detail": "lost"})
    assert nothing_is_left(redis)
