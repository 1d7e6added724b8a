"""Larger U-Net calls are made only where they give the same bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm_core.loading import load_model
from ldm_core.params import GenerationParams
from ldm_core.row_counts import MOST, calls, row_counts
from ldm_core.tasks import begin

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin"


def _call(rows: list[int]) -> Tensor:
    """Rows that do not depend on their number, at a price for each call."""
    time.sleep(0.005)
    return torch.tensor(rows, dtype=torch.float32)[:, None].sin()


def test_equal_rows_and_a_gain_are_taken() -> None:
    assert row_counts(_call, have=5, base=2) == (2, 4, 8)


def test_another_last_bit_in_one_row_is_refused() -> None:
    def call(rows: list[int]) -> Tensor:
        found = _call(rows)
        if len(rows) == 4:
            found[-1] = torch.nextafter(found[-1], torch.tensor(9.0))
        return found

    assert row_counts(call, have=MOST, base=2) == (2, 8)


def test_without_a_gain_nothing_is_taken() -> None:
    def call(rows: list[int]) -> Tensor:
        time.sleep(0.002 * len(rows) ** 2)
        return torch.tensor(rows)

    assert row_counts(call, have=MOST, base=1) == (1,)


@pytest.mark.parametrize("n", range(1, 20))
def test_every_row_is_in_one_call_and_the_smallest_that_does(n: int) -> None:
    made = list(calls(n, (2, 4, 8)))
    assert all(len(row) in {2, 4, 8} for row in made)
    rows = [i for row in made for i in dict.fromkeys(row)]
    assert rows == list(range(n))
    assert len(made[-1]) // 2 < n - 8 * (len(made) - 1) or len(made[-1]) == 2


@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_the_builtin_model_gives_the_same_latents_in_calls_of_any_number(size: tuple[int, int]) -> None:
    """Whatever is found here to be equal: 13 rows that share their calls are what each is alone."""
    model = load_model(BUILTIN / "scenes", "cpu", torch.float32)
    params = [
        GenerationParams(
            task="txt2img", prompt="a house", width=size[0], height=size[1], steps=4, seed=seed,
            guidance_scale=1.0 if seed == 3 else 4.0,
        )
        for seed in range(7)
    ]  # fmt: skip
    with torch.inference_mode():
        together = [begin(model, each, 0, {}) for each in params]
        alone = [begin(model, each, 0, {}) for each in params]
        for _ in range(4):
            model.step(together, rows=2)
            for sample in alone:
                model.step([sample], rows=2)
    assert model._counts, "no larger call was tried"
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.x, other.x)
