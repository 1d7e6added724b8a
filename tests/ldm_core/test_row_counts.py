"""A row of a U-Net call has the same bytes whatever shares the call, wherever it stands, however large it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_core import tasks
from ldm_core.acceleration import native
from ldm_core.denoise import Denoiser
from ldm_core.row_counts import Ladder
from tests.tiny import tiny_models
from tests.worker.engine_kit import TXT2IMG

needs_strict_products = pytest.mark.skipif(not native.reproducible_products(), reason="MKL has no strict mode here")


CPU = torch.device("cpu")
SMALL, LARGE = torch.empty(1, 4, 16, 16), torch.empty(1, 4, 64, 64)


def counts(x: Tensor, dtype: torch.dtype, rows: int, *, tiled: bool = False) -> tuple[int, ...]:
    return Ladder(tiny_models()["scenes"].unet, CPU, dtype, rows).counts(x, tiled=tiled)


@needs_strict_products
@pytest.mark.skipif(not native.present(), reason="no kernels")
def test_larger_calls_are_made_in_float32_at_small_sizes() -> None:
    assert counts(SMALL, torch.float32, 2) == (2, 4, 8)
    assert counts(SMALL, torch.float32, 3) == (3, 6)
    assert counts(SMALL, torch.float32, 1) == (1,)
    assert counts(SMALL, torch.bfloat16, 2) == (2,)
    assert counts(LARGE, torch.float32, 2) == (2,)
    assert counts(SMALL, torch.float32, 2, tiled=True) == (2,)


def test_without_strict_products_calls_keep_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "reproducible_products", lambda: False)
    assert counts(SMALL, torch.float32, 2) == (2,)


def test_what_does_not_fit_into_memory_is_taken_off_the_ladder() -> None:
    """On a GPU down to one row; on a CPU fewer rows than the least would change bytes."""
    on_gpu = Ladder(tiny_models()["scenes"].unet, torch.device("cuda"), torch.float16, 2)
    assert on_gpu.counts(SMALL, tiled=False) == (2, 4, 8, 16, 32)
    assert on_gpu.narrow(SMALL, 16)
    assert on_gpu.counts(SMALL, tiled=False) == (2, 4, 8)
    assert on_gpu.counts(LARGE, tiled=False) == (2, 4, 8, 16, 32)
    assert on_gpu.narrow(SMALL, 2)
    assert on_gpu.counts(SMALL, tiled=False) == (1,)
    assert not on_gpu.narrow(SMALL, 1)
    assert not Ladder(tiny_models()["scenes"].unet, CPU, torch.float32, 2).narrow(SMALL, 2)


GUIDED = [1, 2, 2, 1, 2, 1, 1, 2, 2, 2, 1]  # rows of each sample


@pytest.mark.parametrize("n", range(1, len(GUIDED) + 1))
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_every_sample_is_in_one_call_that_is_hardly_padded(n: int, rows: int) -> None:
    model = tiny_models()["scenes"]
    asked = [replace(TXT2IMG, guidance_scale=float(guided)) for guided in GUIDED[:n]]
    with torch.inference_mode():
        samples = [tasks.begin(model, params, 0, {}) for params in asked]
    groups, ladder = Denoiser(model, rows).groups(samples), counts(samples[0].x, model.dtype, rows)
    assert [sample for group in groups for sample in group] == samples
    for group in groups:
        needed = sum(sample.rows for sample in group)
        call = next((count for count in ladder if count >= needed), ladder[-1])
        assert needed <= call or len(group) == 1
        assert call == ladder[0] or 4 * (call - needed) <= 2 * call


@pytest.mark.slow
@needs_strict_products
@pytest.mark.parametrize(
    ("threads", "dtype", "instructions"),
    [(1, "float32", ""), (2, "float32", ""), (2, "float32", "AVX2"), (2, "bfloat16", "")],
)
def test_a_row_is_the_same_in_every_place_and_company(threads: int, dtype: str, instructions: str) -> None:
    """In a process of its own: MKL and OpenMP read their environment once."""
    environment = os.environ | ({"MKL_ENABLE_INSTRUCTIONS": instructions} if instructions else {})
    told = subprocess.run(
        [sys.executable, "-m", "tests.ldm_core.rows", str(threads), dtype],
        cwd=Path(__file__).parents[2], env=environment, check=True, capture_output=True, text=True, timeout=600,
    ).stdout  # fmt: skip
    found = json.loads(told.splitlines()[-1])
    assert found["compared"] >= 64
    assert not found["differ"]
