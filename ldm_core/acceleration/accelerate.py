"""Faster ways to the numbers that plain torch computes: `accelerate`, which loading alone calls."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from ldm_core.acceleration import native
from ldm_core.acceleration.graph import GraphRecorder
from ldm_core.acceleration.layers import faster
from ldm_core.acceleration.replay import Cached, Record, Replayed
from ldm_core.acceleration.tape import record
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.conditioning import TextEncoder
from ldm_core.networks.unet import UNet

Module = TypeVar("Module", bound=nn.Module)


def accelerate(network: Module) -> Module:
    """Freezes a network in place and makes its calls faster. Call this once, when weights, dtype and device are final.

    Results change by no more than the order of sums. An accelerated network cannot be moved, converted or trained.
    """
    network.eval().requires_grad_(False)
    if isinstance(network, UNet):
        _accelerate_calls(network)
    elif isinstance(network, Autoencoder):
        _accelerate_calls(network.encoder)
        _accelerate_calls(network.decoder)
    elif isinstance(network, TextEncoder):
        network.encode = Cached(network.encode)  # type: ignore[method-assign]
    return network


def fingerprint() -> str:
    """What a CPU's results depend on, beside torch's version and its number of threads; and our own arithmetic."""
    ours = "kernels" if native.present() else "no kernels"
    products = "reproducible products" if native.reproducible_products() else "plain products"
    has = torch.cpu.get_capabilities()
    more = [name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16") if has.get(name)]
    return ", ".join([f"results {native.VERSION}", torch.backends.cpu.get_cpu_capability(), *more, products, ours])


def _accelerate_calls(network: nn.Module) -> None:
    recorder: Record = record
    if next(network.parameters()).is_cuda:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # else cuDNN does so at every call
        recorder = GraphRecorder()
    else:
        _replace_layers(network)
    network.forward = Replayed(network.forward, recorder)


def _replace_layers(network: nn.Module) -> None:
    for name, layer in network.named_children():
        _replace_layers(layer)
        network.add_module(name, faster(layer))
