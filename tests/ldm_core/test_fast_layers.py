"""Layers of accelerated networks: torch's results, and the same bytes however a weight came to be packed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm_core.acceleration import kernels, native, winograd
from ldm_core.acceleration import layers as fast
from ldm_core.acceleration.accelerate import accelerate
from ldm_core.acceleration.layers import faster
from ldm_core.networks.layers import GEGLU, GroupNormSiLU
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig

SHAPES = [(2, 16, 16), (2, 8, 8), (1, 5, 7), (4, 24, 40), (3, 1, 1)]  # rows, height, width
needs_kernels = pytest.mark.skipif(not native.present(), reason="not compiled here")


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@torch.inference_mode()
def test_a_convolution_is_torchs(kernel: int, stride: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 40, kernel, stride=stride, padding=kernel // 2).to(dtype)
    layer = faster(plain)
    assert layer is not plain
    for rows, height, width in SHAPES:
        x = torch.randn(rows, 24, height, width).to(dtype)
        assert plain.bias is not None
        expected = F.conv2d(x.double(), plain.weight.double(), plain.bias.double(), stride, kernel // 2)
        assert torch.allclose(layer(x).double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_other_shapes_in_between_and_the_order_in_memory_change_no_byte(kernel: int, dtype: torch.dtype) -> None:
    layer = faster(nn.Conv2d(192, 192, kernel, padding=kernel // 2).to(dtype))
    inputs = [torch.randn(rows, 192, height, width).to(dtype) for rows, height, width in SHAPES]
    first = [layer(x) for x in inputs]
    for x, before in zip(inputs[::-1], first[::-1], strict=True):
        assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last)), before)
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_linear_layer_is_torchs(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    plain = nn.Linear(24, 40, bias=bias).to(dtype)
    layer = faster(plain)
    for shape in ((2, 7, 24), (16, 24), (1, 24)):
        x = torch.randn(shape).to(dtype)
        expected = F.linear(x.double(), plain.weight.double(), plain.bias.double() if bias else None)
        assert torch.allclose(layer(x).double(), expected, atol=tolerance, rtol=tolerance)
        assert torch.equal(layer(x), layer(x))


@torch.inference_mode()
def test_only_the_last_layouts_are_kept() -> None:
    made: list[int] = []
    layer = fast.Packed(nn.Linear(3, 3))
    sides = [*range(40)]
    for side in (*sides, sides[-1], sides[0]):
        layer.packed(torch.Size([side]), lambda weight, side=side: made.append(side) or weight)  # type: ignore
    assert made == [*sides, 0]


@needs_kernels
def test_each_layer_has_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def ways(dtype: torch.dtype) -> list[str]:
        return [
            type(faster(layer.to(dtype))).__name__
            for layer in (
                nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(16, 32, 3), nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(16, 32, 1), nn.Linear(16, 16),
                GroupNormSiLU(4, 16), nn.GroupNorm(4, 16), nn.LayerNorm(16), nn.LayerNorm(20), GEGLU(16, 16), nn.SiLU(),
            )
        ]  # fmt: skip

    norms = ["GroupNorm", "GroupNorm", "LayerNorm", "LayerNorm", "FusedGEGLU", "SiLU"]
    assert ways(torch.float32) == ["WinogradConv2d", *["PackedConv2d"] * 3, "Pointwise", "Product", *norms]
    assert type(faster(nn.LayerNorm(20))) is nn.LayerNorm  # no multiple of the lanes
    for fast_bfloat16, first in ((True, "PackedConv2d"), (False, "WinogradConv2d")):
        monkeypatch.setattr(winograd, "has_fast_bfloat16", lambda found=fast_bfloat16: found)
        assert ways(torch.bfloat16) == [first, *["PackedConv2d"] * 4, "PackedLinear", *norms]
    without = ["Conv2d"] * 5 + ["Linear", "GroupNormSiLU", "GroupNorm", "LayerNorm", "LayerNorm", "GEGLU", "SiLU"]
    assert ways(torch.float16) == without  # neither library takes it
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(winograd, "library", lambda: None)
    others = ["ContiguousGroupNorm"] * 2 + ["LayerNorm", "LayerNorm", "GEGLU", "SiLU"]
    assert ways(torch.float32) == [*["PackedConv2d"] * 4, "Pointwise", "Product", *others]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_kernels)])
@torch.inference_mode()
def test_group_norm_keeps_its_digits_where_means_are_large(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    x = (0.02 * torch.randn(1, 32, 48, 48) + 9).to(memory_format=torch.channels_last)
    expected = F.group_norm(x.double(), 32)
    # off by 0.8 with torch's own kernel for this layout
    torch.testing.assert_close(faster(nn.GroupNorm(32, 32))(x).double(), expected, rtol=0, atol=2e-3)


@needs_kernels
def test_a_tensor_of_another_dtype_or_device_is_refused() -> None:
    group, layer = faster(nn.GroupNorm(4, 16)), faster(nn.LayerNorm(16))
    convolution = faster(nn.Conv2d(16, 16, 3, padding=1))
    for network in (group, convolution):
        with pytest.raises(ValueError, match=r"expected torch\.float32, got torch\.bfloat16"):
            network(torch.zeros(1, 16, 4, 4, dtype=torch.bfloat16))
        with pytest.raises(ValueError, match="expected 16 channels, got 32"):
            network(torch.zeros(1, 32, 4, 4))
    with pytest.raises(ValueError, match=r"expected torch\.float32, got torch\.bfloat16"):
        layer(torch.zeros(1, 16, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="expected a width of 16, got 32"):
        layer(torch.zeros(1, 32))
    with pytest.raises(ValueError, match="in main memory alone"):
        kernels.geglu(torch.zeros(1, 32, device="meta"))


def test_an_accelerated_network_is_frozen_and_keeps_its_results() -> None:
    config = UNetConfig(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4)  # fmt: skip
    torch.manual_seed(0)
    plain = UNet(config).eval()
    network = accelerate(copy.deepcopy(plain).train())
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    x, t, context = torch.randn(2, 4, 8, 8, requires_grad=True), torch.tensor([3, 700]), torch.randn(2, 5, 32)
    found = network(x, t, context)
    torch.testing.assert_close(found, plain(x, t, context).detach(), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="does not require grad"):
        found.sum().backward()  # nothing is differentiated in silence
