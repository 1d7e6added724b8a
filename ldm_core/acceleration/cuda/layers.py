"""Layers of frozen networks on CUDA: `replace_layers` puts them in the place of the plain ones."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from ldm_core.acceleration.cuda import operators
from ldm_core.acceleration.cuda.blocks import (
    Attending,
    ResnetBlock,
    SpatialAttention,
    SpatialTransformer,
    give_bias_ahead,
)
from ldm_core.acceleration.cuda.modules import CHANNELS, GroupNorm, PaddedConv2d, bias_of, without_bias
from ldm_core.networks import autoencoder, unet
from ldm_core.networks import layers as plain

Level = unet.Level | autoencoder.Level


def replace_layers(network: nn.Module) -> None:
    """Replaces the blocks of a frozen U-Net, encoder or decoder, in place; the results change by their rounding alone.

    Compiles nothing but a trial of Triton, on CUDA; a kernel is compiled when first called, and kept on disk.
    """
    weight = next(network.parameters())
    if weight.is_cuda:
        operators.triton_works(weight.device)  # now, and not in the midst of a capture
    if isinstance(network, unet.UNet):
        _split_joined_inputs(network)
    _replace_children(network)
    for level in [*network.modules()]:
        _give_biases_ahead(level)
    if isinstance(network, unet.UNet | autoencoder.Decoder):
        for level, above in pairwise(network.up_blocks):
            _leave_out_bias(cast("Level", level), cast("Level", above))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _split_joined_inputs(network: unet.UNet) -> None:
    """Replaces the blocks on the way up, which get a skip apart from what comes from below."""
    below = network.config.block_out_channels[-1]
    for level in cast("Iterable[unet.Level]", network.up_blocks):
        for i, resnet in enumerate(cast("Iterable[plain.ResnetBlock]", level.resnets)):
            skip = resnet.conv1.in_channels - below
            below = resnet.conv1.out_channels
            level.resnets[i] = ResnetBlock(resnet, skip)


def _replace_children(network: nn.Module) -> None:
    for name, layer in [*network.named_children()]:
        if (other := _replacement(layer)) is layer:
            _replace_children(layer)
        else:
            network.add_module(name, other)


def _replacement(layer: nn.Module) -> nn.Module:
    match layer:
        case plain.ResnetBlock():
            return ResnetBlock(layer)
        case plain.SpatialTransformer():
            return SpatialTransformer(layer)
        case plain.SpatialAttention():
            return SpatialAttention(layer)
        case nn.GroupNorm():
            return GroupNorm(layer)
        case nn.Conv2d() if layer.in_channels % CHANNELS or layer.out_channels % CHANNELS:
            return PaddedConv2d(layer)
    return layer


def _give_biases_ahead(level: nn.Module) -> None:
    """Of the attention after each residual block of a level, in the U-Net and the autoencoder alike."""
    resnets, attentions = getattr(level, "resnets", None), getattr(level, "attentions", None)
    for resnet, attention in zip(resnets or (), attentions or (), strict=False):
        if isinstance(resnet, ResnetBlock) and isinstance(attention, Attending):
            give_bias_ahead(resnet, attention)


def _leave_out_bias(level: Level, above: Level) -> None:
    """Leaves the bias of the convolution that enlarges a level's result to the first block above."""
    for resize in level.upsamplers or ():
        if isinstance(resize, plain.Upsample) and isinstance(resize.conv, nn.Conv2d):
            cast("ResnetBlock", above.resnets[0]).expect_missing(bias_of(resize.conv))
            without_bias(resize.conv)
