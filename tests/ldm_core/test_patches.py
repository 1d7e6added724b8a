"""Convolutions as products over patches: torch's results, whoever shares the call."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ldm_core.acceleration import native, patches

pytestmark = pytest.mark.skipif(not native.present(), reason="not compiled here")
CHANNELS = [(9, 64), (4, 32), (64, 4), (48, 48), (3, 7)]


@pytest.mark.parametrize(("ins", "out"), CHANNELS)
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
@pytest.mark.parametrize("size", [(16, 16), (5, 7), (3, 3)])
@torch.inference_mode()
def test_it_is_torchs(ins: int, out: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape) for shape in ((2, ins, *size), (out, ins, 3, 3), (out,)))
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    assert patches.takes(x, weight)
    for given in (x, x.to(memory_format=torch.channels_last)):
        found = patches.convolve(given, patches.matrix(weight), bias, stride=stride, padding=padding)
        assert found.shape == expected.shape
        assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_without_a_bias() -> None:
    x, weight = torch.randn(1, 8, 6, 6), torch.randn(16, 8, 3, 3)
    nothing = torch.zeros(16)
    bare, zero = (patches.convolve(x, patches.matrix(weight), each, stride=2, padding=1) for each in (None, nothing))
    assert torch.allclose(bare, zero, atol=1e-5)


def test_a_large_picture_is_not_taken_whatever_the_rows() -> None:
    weight = torch.randn(4, 64, 3, 3)
    assert patches.takes(torch.empty(100, 64, 32, 32, device="meta"), weight)
    assert not patches.takes(torch.empty(1, 64, 64, 64, device="meta"), weight)
    assert not patches.takes(torch.empty(1, 64, 32, 32, device="meta"), weight[:, :, :1, :1])
    assert not patches.takes(torch.empty(1, 63, 32, 32, device="meta"), weight)  # for torch to refuse


@torch.inference_mode()
def test_rows_do_not_see_each_other() -> None:
    x, weight, bias = (torch.randn(shape) for shape in ((4, 9, 6, 5), (32, 9, 3, 3), (32,)))
    before, matrix = [x[i].clone() for i in range(4)], patches.matrix(weight)
    found = patches.convolve(x, matrix, bias, 1, 1)
    x[1:] = torch.nan
    assert torch.equal(patches.convolve(x, matrix, bias, 1, 1)[0], found[0])
    x[3] = before[0]
    assert torch.equal(patches.convolve(x, matrix, bias, 1, 1)[3], found[0])
