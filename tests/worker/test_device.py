"""LDM_DEVICE and LDM_DTYPE: what a GPU cannot do, or is not there to do, is one sentence and an exit code."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from redis import Redis

from tests.pretended_cuda import pretended_cuda
from tests.tiny import write_tiny_models
from tests.worker.processes import ROOT
from worker.process.device import chosen_device, chosen_dtype
from worker.process.main import load_models
from worker.settings import WorkerSettings
from worker.vital import EXIT_BAD_SETTING

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def refusal(choose: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        choose()
    assert ended.value.code == EXIT_BAD_SETTING
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_gpu_that_is_there_is_taken() -> None:
    with pretended_cuda(devices=2):
        assert chosen_device("cuda") == chosen_device("auto") == torch.device("cuda")
        assert chosen_device("cuda:1") == torch.device("cuda", 1)
        assert chosen_device("cpu") == CPU


@pytest.mark.parametrize(
    ("devices", "told"), [(1, "there is 1 here, cuda:0"), (4, "there are 4 here, cuda:0 to cuda:3")]
)
def test_a_gpu_beyond_those_that_are_there(devices: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pretended_cuda(devices):
        assert refusal(lambda: chosen_device("cuda:7"), capsys) == f"LDM_DEVICE=cuda:7: {told}"


@pytest.mark.parametrize("name", ["mps", "gpu", "cuda:x", "cuda:-1", "cpu:1", ""])
def test_what_is_no_device_of_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(lambda: chosen_device(name), capsys).startswith(f"LDM_DEVICE={name}: is no device; choose auto, ")


def test_a_gpu_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    """By another process in exclusive mode, say."""
    with pretended_cuda() as gpu:
        gpu.lose("CUDA error: all CUDA-capable devices are busy or unavailable\nCompile with TORCH_USE_CUDA_DSA")
        found = refusal(lambda: chosen_device("cuda"), capsys)
    assert found == "LDM_DEVICE=cuda: CUDA error: all CUDA-capable devices are busy or unavailable"


def test_a_cuda_build_without_a_driver(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = refusal(lambda: chosen_device("cuda"), capsys)
    assert told == "LDM_DEVICE=cuda: no NVIDIA driver or no GPU is visible here; choose cpu or auto"
    with caplog.at_level(logging.WARNING):
        assert chosen_device("auto") == CPU
    assert "no GPU can be used here: working on the CPU" in caplog.text


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="needs a build of torch without CUDA")
def test_a_cpu_build(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    told = refusal(lambda: chosen_device("cuda"), capsys)
    assert told == f"LDM_DEVICE=cuda: torch {torch.__version__} is built without CUDA; choose cpu or auto"
    assert chosen_device("auto") == CPU and not caplog.records


def test_bfloat16_is_the_default_where_the_gpu_has_it(caplog: pytest.LogCaptureFixture) -> None:
    for capability in ((8, 0), (8, 9), (9, 0), (12, 0)):
        with pretended_cuda(capability=capability):
            assert chosen_dtype("auto", CUDA) == chosen_dtype("bfloat16", CUDA) == torch.bfloat16
    with pretended_cuda(capability=(7, 5)), caplog.at_level(logging.INFO):
        assert chosen_dtype("auto", CUDA) == chosen_dtype("float16", CUDA) == torch.float16
    assert "compute capability 7.5 has no bfloat16: computing in float16" in caplog.text
    assert chosen_dtype("auto", CPU) == torch.float32
    assert chosen_dtype("bfloat16", CPU) == torch.bfloat16


def test_bfloat16_on_a_gpu_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pretended_cuda(capability=(7, 5)):
        told = refusal(lambda: chosen_dtype("bfloat16", CUDA), capsys)
    assert told == (
        "LDM_DTYPE=bfloat16: a GPU that is pretended has compute capability 7.5, and bfloat16 needs 8.0; choose "
        "float16, float32 or auto"
    )


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), "bfloat16"), ((7, 0), "float16")])
def test_the_log_says_in_what_a_model_computes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capability: tuple[int, int], dtype: str
) -> None:
    directory, _ = write_tiny_models(tmp_path)
    with pretended_cuda(capability=capability), caplog.at_level(logging.INFO):
        model = load_models(WorkerSettings(model=str(directory), device="cuda"))["scenes"]
    assert model.dtype == getattr(torch, dtype) and next(model.unet.parameters()).dtype == model.dtype
    assert f"loaded model scenes on cuda as torch.{dtype}" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_worker_that_is_told_cuda_never_falls_back_to_a_cpu(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    env = os.environ | {
        "LDM_REDIS_URL": redis_url, "LDM_DATA_DIR": str(tmp_path), "LDM_DEVICE": "cuda", "LDM_METRICS_PORT": "0",
        "LDM_MODEL": str(write_tiny_models(tmp_path / "models")[0]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "worker.process.prefork"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == EXIT_BAD_SETTING  # at once: the prefork master does not try again
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("LDM_DEVICE=cuda: ")
    assert not redis.smembers("ldm:workers")  # nothing is half started
