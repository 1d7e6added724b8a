"""A row of a U-Net call has the same bytes whatever shares the call, wherever it stands, however large it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm_core.acceleration import native
from ldm_core.row_counts import calls, row_counts

needs_strict_products = pytest.mark.skipif(not native.reproducible_products(), reason="MKL has no strict mode here")


@pytest.mark.parametrize("n", range(1, 20))
def test_every_row_is_in_one_call_and_the_smallest_that_does(n: int) -> None:
    made = list(calls(n, (2, 4, 8)))
    assert all(len(row) in {2, 4, 8} for row in made)
    rows = [i for row in made for i in dict.fromkeys(row)]
    assert rows == list(range(n))
    assert len(made[-1]) // 2 < n - 8 * (len(made) - 1) or len(made[-1]) == 2


@needs_strict_products
@pytest.mark.skipif(not native.present(), reason="no kernels")
def test_larger_calls_are_made_in_float32_at_small_sizes() -> None:
    small, large = torch.empty(2, 4, 16, 16), torch.empty(2, 4, 64, 64)
    assert row_counts(small, torch.float32, 2) == (2, 4, 8)
    assert row_counts(small, torch.float32, 3) == (3, 6)
    assert row_counts(small, torch.float32, 1) == (1,)
    assert row_counts(small, torch.bfloat16, 2) == (2,)
    assert row_counts(large, torch.float32, 2) == (2,)


def test_without_strict_products_calls_keep_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "reproducible_products", lambda: False)
    assert row_counts(torch.empty(2, 4, 16, 16), torch.float32, 2) == (2,)


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
