"""Faster ways to the numbers that plain torch computes: `accelerate`, which loading alone calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ldm_core import arithmetic
from ldm_core.acceleration import native
from ldm_core.acceleration.cuda import operators
from ldm_core.acceleration.cuda.layers import replace_layers
from ldm_core.acceleration.cuda.modules import AddedProduct, AttentionCore
from ldm_core.acceleration.graph import GraphRecorder, Graphs
from ldm_core.acceleration.layers import faster
from ldm_core.acceleration.pieces import in_pieces
from ldm_core.acceleration.replay import Cached, Replayed
from ldm_core.acceleration.tape import record
from ldm_core.device import Program, as_it_is
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.conditioning import TextEncoder
from ldm_core.networks.unet import UNet

Module = TypeVar("Module", bound=nn.Module)


def accelerate(network: Module) -> Module:
    """Freezes a network in place and makes its calls faster. Call this once, when weights, dtype and device are final.

    Results change by no more than the order of sums. An accelerated network cannot be moved, converted or trained.
    """
    network.eval().requires_grad_(False)
    on_gpu = any(weight.is_cuda for weight in network.parameters())
    if isinstance(network, UNet):
        _accelerate_unet_on_gpu(network) if on_gpu else _accelerate_calls(network)
    elif isinstance(network, Autoencoder):
        for part in (network.encoder, network.decoder):
            _capture_calls(part) if on_gpu else _accelerate_calls(part)
    elif isinstance(network, TextEncoder):
        network.encode = Cached(network.encode)  # type: ignore[method-assign]
    return network


def fingerprint(device: torch.device) -> str:
    """What a device's results depend on, beside torch's version and the number of CPU threads; our own ways first."""
    ours = _fingerprint_of_cpu()
    if device.type != "cuda":
        return ours
    return f"{ours}, {arithmetic.fingerprint(device)}, {operators.fingerprint(device)}"


def _fingerprint_of_cpu() -> str:
    ours = "kernels" if native.present() else "no kernels"
    products = "reproducible products" if native.reproducible_products() else "plain products"
    has = torch.cpu.get_capabilities()
    more = [name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16") if has.get(name)]
    return ", ".join([f"results {native.VERSION}", torch.backends.cpu.get_cpu_capability(), *more, products, ours])


def capture_on(device: torch.device) -> Callable[[Program], Program]:
    """What gives a program that `device` repeats with one launch: on a CPU, the program itself."""
    return Graphs(device).capture if device.type == "cuda" else as_it_is


def _accelerate_unet_on_gpu(unet: UNet) -> None:
    """Its calls are parts of steps that are captured whole."""
    replace_layers(unet)
    in_pieces(unet, (nn.Conv2d, nn.Linear, AddedProduct, AttentionCore))  # our kernels take each row by itself


def _capture_calls(network: nn.Module) -> None:
    replace_layers(network)
    network.forward = Replayed(network.forward, GraphRecorder(next(network.parameters()).device))


def _accelerate_calls(network: nn.Module) -> None:
    _replace_layers(network)
    network.forward = Replayed(network.forward, record)


def _replace_layers(network: nn.Module) -> None:
    for name, layer in network.named_children():
        _replace_layers(layer)
        network.add_module(name, faster(layer))
