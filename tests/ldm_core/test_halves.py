"""Products by float16 arithmetic: as near to exact ones as bfloat16 is, whatever the sizes of the numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration import halves
from ldm_core.acceleration.packed import Conv2d, Joined, Linear

pytestmark = pytest.mark.skipif(not halves.present(), reason="not compiled here, or another processor")
SHAPES = ((1, 16, 1), (8, 64, 64), (33, 48, 70), (12, 192, 192), (300, 320, 200), (5, 1280, 64), (70, 20480, 8))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def multiplied(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    return halves.linear(x, halves.packed(matrix[None]), bias)


def deviation(found: Tensor, exact: Tensor) -> float:
    """Root mean square, in parts of the exact result's."""
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-3), (torch.bfloat16, 3e-3)])
def test_it_is_a_product(shape: tuple[int, int, int], dtype: torch.dtype, most: float) -> None:
    rows, depth, columns = shape
    x, matrix = random(rows, depth).to(dtype), random(depth, columns, seed=1).bfloat16()
    bias = random(columns, seed=2).to(dtype)
    exact = x.double() @ matrix.double()
    found = multiplied(x, matrix, bias)
    assert found.dtype == dtype
    assert deviation(found, exact + bias.double()) < most
    assert deviation(multiplied(x, matrix), exact) < most


@pytest.mark.parametrize("rows", [3, 200])
def test_what_stands_before_and_after_it_is_done_with_it(rows: int) -> None:
    x, matrix, more = random(2, rows, 192), random(96, 70, seed=1), random(2, rows, 70, seed=2)
    norm = nn.LayerNorm(96, eps=0.1)
    norm.weight[:], norm.bias[:] = random(96, seed=3), random(96, seed=4)
    packed = halves.packed(matrix[None])
    whole, part = x.double(), x[..., :96].double()
    normed = F.layer_norm(part, (96,), norm.weight.double(), norm.bias.double(), norm.eps)
    gated = whole[..., :96] * F.gelu(whole[..., 96:])
    for dtype in (torch.float32, torch.bfloat16):
        norm.to(dtype)
        of = x.to(dtype), x[..., :96].to(dtype)
        added = more.to(dtype)
        assert deviation(halves.linear(of[1], packed, None, norm=norm), normed @ matrix.double()) < 6e-3
        assert deviation(halves.linear(of[0], packed, None, gated=True), gated @ matrix.double()) < 6e-3
        exact = part @ matrix.double() + more.double()
        assert deviation(halves.linear(of[1], packed, None, add=added), exact) < 6e-3
        other = added.transpose(0, 1).contiguous().transpose(0, 1)
        assert torch.equal(halves.linear(of[1], packed, None, add=other), halves.linear(of[1], packed, None, add=added))


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e5, 1e28])
def test_neither_large_nor_small_numbers_are_lost(size: float) -> None:
    rows, columns = torch.logspace(-4, 4, 20)[:, None], torch.logspace(-3, 3, 80)
    x, matrix = (size * rows * random(20, 640)).bfloat16(), (columns * random(640, 80, seed=1)).bfloat16()
    found = multiplied(x, matrix).double()
    x, matrix = x.double(), matrix.double()
    usual = x.norm(dim=1)[:, None] * matrix.norm(dim=0) / 640**0.5  # of a row and a column
    assert ((found - x @ matrix) / usual).abs().max() < 0.02


def test_zeros_give_the_bias_and_what_is_not_finite_stays_so() -> None:
    x = random(3, 64)
    x[0], x[1, 5], x[2, 7] = 0, torch.nan, torch.inf
    matrix, bias = random(64, 64, seed=1), random(64, seed=2)
    matrix[:, 3] = 0
    found = multiplied(x, matrix, bias)
    assert torch.equal(found[0], bias)
    assert found[1:].isfinite().sum() == 0


@pytest.mark.parametrize("rows", [1, 7, 16, 300])
def test_a_row_depends_on_neither_its_place_nor_its_company(rows: int) -> None:
    depth = 192 if rows < 300 else 5120  # so deep that not all rows go together
    x, matrix = random(8 * rows, depth).bfloat16(), halves.packed(random(1, depth, 320, seed=1))
    whole = halves.linear(x, matrix, None)
    for first in range(0, 8 * rows, rows):
        assert torch.equal(halves.linear(x[first : first + rows], matrix, None), whole[first : first + rows])


def test_another_depth_is_refused() -> None:
    matrix = halves.packed(random(1, 64, 64))
    for depth, gated in ((48, False), (64, True), (128, False)):
        with pytest.raises(ValueError, match=f"expected a depth of 64, got {depth}"):
            halves.linear(random(5, depth), matrix, None, gated=gated)


def test_a_depth_that_the_kernel_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16, got 20"):
        halves.packed(random(1, 20, 64))


@pytest.mark.parametrize("layer", [Linear(192, 100), Conv2d(192, 100, 1), Conv2d(192, 112, 3, padding=1)])
def test_layers_in_bfloat16_take_it(layer: Linear | Conv2d) -> None:
    x = random(2, 192, 6, 6) if isinstance(layer, Conv2d) else random(2, 5, 192)
    layer(x)
    ready = layer._matrix if isinstance(layer, Linear) else layer._matrices
    assert not any(isinstance(each, halves.Halves) for each in ready._latest._kept.values())
    exact = layer.double()(x.double())
    more = random(*exact.shape, seed=1).bfloat16()
    layer, x = layer.bfloat16(), x.bfloat16()
    found, summed = layer(x), layer(x, add=more)
    assert [type(each) for each in ready._latest._kept.values()][-1] is halves.Halves
    assert deviation(found, exact) < 1e-2
    assert deviation(summed, exact + more.double()) < 1e-2


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(64).bfloat16()])
def test_joined_layers_give_what_each_gives(norm: nn.LayerNorm | None) -> None:
    with torch.inference_mode(mode=False), torch.no_grad():
        layers = [Linear(64, out).bfloat16() for out in (8, 40, 80)]
        joined, x = Joined(layers), random(16, 64).bfloat16()
        for change in (1.0, 2.0):  # training goes on between two evaluations
            for layer in layers:
                layer.weight.mul_(change), layer.bias.add_(change)
            for found, layer in zip(joined(x, norm), layers, strict=True):
                assert torch.equal(found, layer(x, norm=norm))
    assert len(joined._whole._kept) == 1
