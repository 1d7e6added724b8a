"""Residual blocks that scale and shift by the timestep: diffusers' numbers, with every fast path and without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import diffusers
import pytest
import torch
from torch import Tensor, nn

from ldm_core.acceleration import native, winograd
from ldm_core.acceleration.accelerate import accelerate
from ldm_core.errors import ModelError
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig

TOLERANCE = 1e-4
SHIFT = {"resnet_time_scale_shift": "scale_shift", "norm_num_groups": 16, "layers_per_block": 1}
Inputs = tuple[Tensor, ...]


def self_attending(resample: str, groups: int | None) -> diffusers.UNet2DModel:
    first = "ResnetDownsampleBlock2D" if resample == "resnet" else "DownBlock2D"
    return diffusers.UNet2DModel(
        in_channels=4, out_channels=4, block_out_channels=(32, 64), down_block_types=(first, "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", first.replace("Down", "Up", 1).replace("down", "up")),
        downsample_type=resample, upsample_type=resample, attention_head_dim=16, attn_norm_num_groups=groups, **SHIFT,
    )  # fmt: skip


def cross_attending() -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=24, attention_head_dim=4, **SHIFT,
    )  # fmt: skip


PEERS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: self_attending("conv", 16),
    "no norm in the middle": lambda: self_attending("conv", None),
    "residual resizing": lambda: self_attending("resnet", 16),
    "cross-attention": cross_attending,
}
# what a call runs through: the networks as in training, torch's operators alone, and all that inference has
WAYS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "training": torch.enable_grad, "no kernels": torch.inference_mode, "inference": torch.inference_mode,
}  # fmt: skip


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return PEERS[request.param]().eval()


def ours(peer: nn.Module) -> UNet:
    config = UNetConfig.from_json(dict(peer.config))  # type: ignore[call-overload]
    assert UNetConfig.from_json(config.to_json()) == config
    unet = UNet(config)
    unet.load_state_dict(peer.state_dict())
    return unet.eval()


def inputs(peer: nn.Module, side: tuple[int, int] = (8, 12)) -> Inputs:
    more = (torch.randn(3, 5, 24),) if isinstance(peer, diffusers.UNet2DConditionModel) else ()
    return torch.randn(3, 4, *side), torch.tensor([1, 500, 999]), *more


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max().detach())


@pytest.mark.parametrize("way", WAYS)
def test_it_is_diffusers(peer: nn.Module, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, given = ours(peer), inputs(peer)
    if way == "no kernels":
        monkeypatch.setattr(native, "library", lambda: None)
        monkeypatch.setattr(winograd, "library", lambda: None)
    if way != "training":
        accelerate(unet)
    with WAYS[way]():
        expected = peer(*given).sample
        for _ in range(4):  # plain, recorded, replayed
            found = unet(*given)
            assert difference(found, expected) <= TOLERANCE
    assert found.requires_grad == (way == "training")


@torch.inference_mode()
def test_bfloat16_is_as_near_as_diffusers_is(peer: nn.Module) -> None:
    unet, (x, t, *more) = ours(peer), inputs(peer, (16, 16))
    exact = peer(x, t, *more).sample
    low = (x.bfloat16(), t, *(part.bfloat16() for part in more))
    of_peer = peer.bfloat16()(*low).sample.float()
    unet = accelerate(unet.bfloat16())
    for _ in range(4):
        found = unet(*low).float()
        assert (found - exact).norm() <= max(1.5 * (of_peer - exact).norm(), 1e-2 * exact.norm())


def test_other_ways_of_using_the_timestep_are_named() -> None:
    for other in ("ada_group", "spatial", "scale", 3, None):
        with pytest.raises(ModelError, match="resnet_time_scale_shift = "):
            UNetConfig.from_json({"resnet_time_scale_shift": other})
