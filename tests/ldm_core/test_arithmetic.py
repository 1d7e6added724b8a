"""CUDA's arithmetic is settled before a model is on a GPU, and named in a checkpoint's fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_core import arithmetic
from ldm_core.arithmetic import settle_arithmetic
from ldm_core.loading.model import load_model
from tests.pretended_cuda import PretendedCuda, pretended_cuda
from tests.tiny import write_tiny_models
from worker.engine.checkpoint import fingerprint

backends = torch.backends
SETTLED: dict[tuple[Any, str], Any] = {
    (backends.cudnn, "benchmark"): False,
    (backends.cudnn, "deterministic"): True,
    (backends.cudnn.conv, "fp32_precision"): "ieee",
    (backends.cuda.matmul, "fp32_precision"): "ieee",
    (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"): False,
    (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"): False,
}
ATTENTION = {
    backends.cuda.enable_cudnn_sdp: (backends.cuda.cudnn_sdp_enabled, False),
    backends.cuda.enable_flash_sdp: (backends.cuda.flash_sdp_enabled, True),
    backends.cuda.enable_mem_efficient_sdp: (backends.cuda.mem_efficient_sdp_enabled, True),
    backends.cuda.enable_math_sdp: (backends.cuda.math_sdp_enabled, True),
}


@pytest.fixture(autouse=True)
def _other_settings() -> Iterator[None]:
    """Begins where everything is set the other way, and puts back what was set before."""
    before = {where: getattr(*where) for where in SETTLED}
    attention = {enable: enabled() for enable, (enabled, _) in ATTENTION.items()}
    for where, value in SETTLED.items():
        setattr(*where, "tf32" if value == "ieee" else not value)
    for enable, (_, settled) in ATTENTION.items():
        enable(not settled)
    yield
    for where, value in before.items():
        setattr(*where, value)
    for enable, value in attention.items():
        enable(value)


@pytest.fixture
def gpu() -> Iterator[PretendedCuda]:
    with pretended_cuda() as gpu:
        yield gpu


def settings() -> list[Any]:
    return [getattr(*where) for where in SETTLED] + [enabled() for enabled, _ in ATTENTION.values()]


def test_loading_onto_a_gpu_settles_all_of_it_before_anything_is_there(
    gpu: PretendedCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blas: list[str] = []
    monkeypatch.setattr(backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(backends.cuda, "preferred_blas_library", blas.append)
    directory, _ = write_tiny_models(tmp_path)
    others = settings()
    with gpu.counting() as seen:
        monkeypatch.setattr(
            "ldm_core.loading.model.settle_arithmetic",
            lambda: (settle_arithmetic(), blas.append(f"{len(gpu.crossings) - before} crossings before")),
        )
        before = len(gpu.crossings)
        load_model(directory, "cuda")
    assert settings() == [*SETTLED.values(), *(settled for _, settled in ATTENTION.values())] != others
    for split in (torch._C._get_cublas_allow_bf16_reduced_precision_reduction,
                  torch._C._get_cublas_allow_fp16_reduced_precision_reduction):  # fmt: skip
        assert split() == (False, False)  # neither in half precision nor split over thread blocks
    assert blas == ["cublaslt", "0 crossings before"] and seen.crossings


def test_loading_onto_a_cpu_changes_none_of_it(tmp_path: Path) -> None:
    directory, _ = write_tiny_models(tmp_path)
    before = settings()
    load_model(directory)
    assert settings() == before


@pytest.mark.parametrize("change", ["device", "CUDA", "cuDNN", "driver", "settings"])
def test_a_checkpoint_names_device_versions_and_settings(
    gpu: PretendedCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Another worker goes on from a checkpoint only where its bytes would be the same."""
    driver = tmp_path / "version"
    text = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)\nGCC version: 12\n"
    )
    driver.write_text(text.format("570.124.06"))
    monkeypatch.setattr(arithmetic, "DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(backends.cudnn, "version", lambda: 91002)
    model = load_model(write_tiny_models(tmp_path / "models")[0], "cuda", torch.bfloat16)
    place = fingerprint(model, 16)
    assert "a GPU that is pretended, CUDA 12.8, cuDNN 91002, driver 570.124.06, arithmetic 1 (" in place
    if change == "device":
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "another GPU")
    elif change == "CUDA":
        monkeypatch.setattr(torch.version, "cuda", "13.0")
    elif change == "cuDNN":
        monkeypatch.setattr(backends.cudnn, "version", lambda: 91300)
    elif change == "driver":
        driver.write_text(text.format("580.65.06"))
    else:
        monkeypatch.setattr(arithmetic, "NAME", "arithmetic 2")
    assert fingerprint(model, 16) != place


def test_a_system_that_does_not_tell_its_driver_says_so(
    gpu: PretendedCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "DRIVER", tmp_path / "absent")
    assert "driver None" in arithmetic.fingerprint(torch.device("cuda", 0))
