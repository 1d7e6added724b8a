"""Packed layers: torch's results, and the same bytes however a weight came to be packed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm_core.acceleration.packed import Conv2d, Linear, _Packed, for_inference

SHAPES = [(2, 16, 16), (2, 8, 8), (1, 5, 7), (4, 24, 40), (3, 1, 1)]  # rows, height, width


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_a_convolution_is_torchs(kernel: int, stride: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    layer = Conv2d(24, 40, kernel, stride=stride, padding=kernel // 2).to(dtype)
    with torch.inference_mode():
        for rows, height, width in SHAPES:
            x = torch.randn(rows, 24, height, width).to(dtype)
            expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), stride, kernel // 2)
            assert torch.allclose(layer(x).double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_shapes_in_between_and_the_order_in_memory_change_no_byte(kernel: int, dtype: torch.dtype) -> None:
    layer = Conv2d(192, 192, kernel, padding=kernel // 2).to(dtype)
    inputs = [torch.randn(rows, 192, height, width).to(dtype) for rows, height, width in SHAPES]
    with torch.inference_mode():
        first = [layer(x) for x in inputs]
        for x, before in zip(inputs[::-1], first[::-1], strict=True):
            assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), before)
            assert torch.equal(layer(x), before)


def test_a_linear_layer_is_torchs_in_bfloat16() -> None:
    layer = Linear(24, 40).bfloat16()
    with torch.inference_mode():
        for shape in ((2, 7, 24), (16, 24), (1, 24)):
            x = torch.randn(shape).bfloat16()
            expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
            assert torch.allclose(layer(x).double(), expected, atol=5e-2, rtol=5e-2)
            assert torch.equal(layer(x), layer(x))


def test_weights_that_change_after_an_evaluation_are_used() -> None:
    layer, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        before = layer(x)
        layer.weight.mul_(2)  # what an optimiser does, between two evaluations
        layer.bias.mul_(2)
        assert torch.allclose(layer(x), 2 * before, atol=1e-5)


def test_autocast_is_left_to_torch() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = Linear(8, 8)(torch.randn(2, 8))
        assert Linear(8, 8)(hidden).dtype == torch.bfloat16  # bfloat16 meets weights in float32
        assert Conv2d(8, 8, 3, padding=1)(hidden[:, :, None, None]).dtype == torch.bfloat16
        layer, x = Conv2d(16, 16, 3, padding=1), torch.randn(1, 16, 6, 6)  # both in float32
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_training_differentiates() -> None:
    layer, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and x.grad is not None


def test_only_the_last_layouts_are_kept() -> None:
    made = []
    packed = _Packed(lambda weight, shape: made.append(tuple(shape)) or weight)  # type: ignore[func-returns-value]
    weight = torch.zeros(3)
    shapes = [torch.Size([side]) for side in range(40)]
    for shape in (*shapes, shapes[-1], shapes[0]):
        packed.get(weight, shape)
    assert made == [*((side,) for side in range(40)), (0,)]


def test_weights_laid_out_for_reading_give_the_same_bytes() -> None:
    plain = nn.Sequential(Conv2d(24, 40, 1), Conv2d(40, 40, 3, padding=1), nn.Flatten(2), Linear(64, 30))
    laid_out = for_inference(copy.deepcopy(plain))
    assert not laid_out[3].weight.is_contiguous()
    for name, weight in plain.state_dict().items():
        assert torch.equal(laid_out.state_dict()[name], weight)
    x = torch.randn(3, 24, 8, 8)
    with torch.inference_mode():
        assert torch.equal(laid_out(x), plain(x))
