"""Winograd's convolution against torch's in float64, and a row's independence of its company and of the pieces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration import native, winograd

pytestmark = pytest.mark.skipif(not native.present(), reason="not compiled here")
SHAPES = ((2, 16, 32, 8, 8), (1, 48, 16, 5, 7), (3, 32, 32, 1, 1), (2, 64, 64, 16, 2), (1, 16, 16, 33, 64))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def layer_and_input(rows: int, ins: int, out: int, height: int, width: int) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(ins, out, 3, padding=1), torch.randn(rows, ins, height, width)


def convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    assert layer.bias is not None
    return winograd.convolve(x, winograd.transformed(layer.weight), layer.bias)


def exact(layer: nn.Conv2d, x: Tensor) -> Tensor:
    assert layer.bias is not None
    return F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out", "ins"), [(16, 16), (32, 48), (160, 80)])
def test_a_weight_is_transformed_as_the_paper_says_and_rounded_once(out: int, ins: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(out, ins, 3, 3).to(dtype)
    g = torch.tensor(((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0)), dtype=torch.float64)
    exact = (g @ weight.double() @ g.t()).permute(2, 3, 1, 0).flatten(0, 1)
    assert torch.equal(winograd.transformed(weight), exact.float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("laid_out", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_convolution(shape: tuple[int, int, int, int, int], laid_out: torch.memory_format) -> None:
    layer, x = layer_and_input(*shape)
    found = convolved(layer, x.to(memory_format=laid_out))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact(layer, x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_is_that_of_float32_rounded(shape: tuple[int, int, int, int, int]) -> None:
    layer, x = layer_and_input(*shape)
    layer, x = layer.bfloat16(), x.bfloat16()
    found = convolved(layer, x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, convolved(layer.float(), x.float()).bfloat16())


@pytest.mark.parametrize("channels", [64, 192, 320])
@pytest.mark.parametrize("side", [3, 8, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_depends_on_neither_its_place_nor_its_company(
    channels: int, side: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = layer_and_input(4, channels, channels, side, side)
    layer, x = layer.to(dtype), x.to(dtype)
    order = [2, 0, 3, 1]
    for piece in (winograd.PIECE, 64 * 2 * channels * side * side, 4096):
        monkeypatch.setattr(winograd, "PIECE", piece)
        assert torch.equal(convolved(layer, x)[order], convolved(layer, x[order]))


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("down", [1, 3, 16])
@pytest.mark.parametrize("line", [1, 1000, 2**20, 10_000_000, 2**30])
def test_pieces_cover_all_lines_and_cut_every_row_in_the_same_way(rows: int, down: int, line: int) -> None:
    pieces = winograd._pieces(rows, down, line)
    assert [number for first, last in pieces for number in range(first, last)] == list(range(rows * down))
    assert all((last - first) * line <= winograd.PIECE or last - first == 1 for first, last in pieces)
    cuts = {first % down for first, _ in pieces}
    assert pieces[0][1] >= down or all((row * down + cut) in dict(pieces) for row in range(rows) for cut in cuts)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 16 channels, got 20"):
        convolved(nn.Conv2d(16, 16, 3, padding=1), torch.randn(1, 20, 4, 4))
