"""Products by float16 arithmetic: as near to exact ones as bfloat16 is, whatever the sizes of the numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ldm_core import halves
from ldm_core.packed import Conv2d, Linear

pytestmark = pytest.mark.skipif(not halves.present(), reason="not compiled here, or another processor")
SHAPES = ((1, 1, 16, 1), (1, 8, 64, 64), (3, 33, 48, 70), (16, 12, 192, 192), (1, 300, 320, 200), (2, 5, 1280, 64))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def deviation(found: Tensor, x: Tensor, matrices: Tensor, bias: Tensor | float = 0.0) -> float:
    """Root mean square, in parts of the exact result's."""
    exact = x.double() @ matrices.double() + bias
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-3), (torch.bfloat16, 3e-3)])
def test_it_is_a_product(shape: tuple[int, int, int, int], dtype: torch.dtype, most: float) -> None:
    products, rows, depth, columns = shape
    x, matrices = random(products, rows, depth).to(dtype), random(products, depth, columns, seed=1).bfloat16()
    bias = random(columns, seed=2).to(dtype)
    found = halves.product(x, halves.packed(matrices), bias)
    assert found.dtype == dtype
    assert deviation(found, x, matrices, bias.double()) < most
    assert deviation(halves.product(x, halves.packed(matrices)), x, matrices) < most


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e5, 1e28])
def test_neither_large_nor_small_numbers_are_lost(size: float) -> None:
    rows, columns = torch.logspace(-4, 4, 20)[:, None], torch.logspace(-3, 3, 80)
    x, matrices = (size * rows * random(1, 20, 640)).bfloat16(), (columns * random(1, 640, 80, seed=1)).bfloat16()
    found = halves.product(x, halves.packed(matrices)).double()
    x, matrices = x.double(), matrices.double()
    usual = x.norm(dim=2)[:, :, None] * matrices.norm(dim=1)[:, None] / 640**0.5  # of a row and a column
    assert ((found - x @ matrices) / usual).abs().max() < 0.02


def test_zeros_give_the_bias_and_what_is_not_finite_stays_so() -> None:
    x = random(1, 3, 64)
    x[0, 0], x[0, 1, 5], x[0, 2, 7] = 0, torch.nan, torch.inf
    matrices, bias = random(1, 64, 64, seed=1), random(64, seed=2)
    matrices[0, :, 3] = 0
    found = halves.product(x, halves.packed(matrices), bias)
    assert torch.equal(found[0, 0], bias)
    assert found[0, 1:].isfinite().sum() == 0


@pytest.mark.parametrize("rows", [1, 7, 16, 300])
def test_a_row_depends_on_neither_its_place_nor_its_company(rows: int) -> None:
    x, matrices = random(1, 8 * rows, 192).bfloat16(), halves.packed(random(1, 192, 320, seed=1))
    whole = halves.product(x, matrices)
    for first in range(0, 8 * rows, rows):
        assert torch.equal(halves.product(x[:, first : first + rows], matrices), whole[:, first : first + rows])


def test_other_shapes_are_refused() -> None:
    matrices = halves.packed(random(2, 64, 64))
    for shape in ((2, 5, 48), (1, 5, 64)):
        with pytest.raises(ValueError, match="expected 2 products of depth 64"):
            halves.product(random(*shape), matrices)


def test_a_depth_that_the_kernel_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16, got 20"):
        halves.packed(random(1, 20, 64))


@pytest.mark.parametrize("layer", [Linear(192, 100), Conv2d(192, 100, 1), Conv2d(192, 112, 3, padding=1)])
def test_layers_in_bfloat16_take_it(layer: Linear | Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    product = halves.product

    def watched(*given: Tensor) -> Tensor:
        calls.append(None)
        return product(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(halves, "product", watched)
    x = random(2, 192, 6, 6) if isinstance(layer, Conv2d) else random(2, 5, 192)
    layer(x)
    assert not calls
    exact = layer.double()(x.double())
    found = layer.bfloat16()(x.bfloat16())
    assert len(calls) == 1
    assert float((found.double() - exact).norm() / exact.norm()) < 1e-2
