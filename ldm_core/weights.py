"""Weights from disk into a network, strictly: what is missing, unexpected, misshapen or not finite is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm_core.directory import read_json
from ldm_core.errors import ModelError

Module = TypeVar("Module", bound=nn.Module)


def build_strictly(build: Callable[[], Module], state: dict[str, Tensor], path: Path) -> Module:
    """A network on the CPU with these weights, which are those of `path`.

    It takes memory only once its names and shapes are known to be those of the weights. Raises ModelError.
    """
    with torch.device("meta"):
        network = build_or_refuse(build, path)
    load_strictly(network, state, path)
    if any(value.is_meta for value in state.values()):
        return network
    # buffers are computed as a network is built; without any, it need not be filled with random numbers first
    network = build_or_refuse(build, path) if any(True for _ in network.buffers()) else network.to_empty(device="cpu")
    network.load_state_dict(state)
    return network


def build_or_refuse(build: Callable[[], Module], path: Path) -> Module:
    """The network whose weights are in the file `path`. Raises ModelError where its configuration cannot be built."""
    try:
        return build()
    except Exception as error:  # of the transformers library, for sizes that do not fit each other
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(path.parent / "config.json", f"describes no network that can be built: {reason}") from None


def load_strictly(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict` whose error lists what is missing, unexpected, of another shape or not finite.

    A network on the meta device is only compared.
    """
    expected = module.state_dict()
    problems = [
        *_problem("missing", [key for key in expected if key not in state]),
        *_problem("unexpected", [key for key in state if key not in expected]),
        *_problem("of another shape", [k for k, v in state.items() if k in expected and v.shape != expected[k].shape]),
        *_problem("not finite", [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]),
    ]
    if problems:
        raise ModelError(path, "; ".join(problems))
    if not any(value.is_meta for value in expected.values()):
        module.load_state_dict(state, assign=False)


def _problem(what: str, keys: list[str]) -> list[str]:
    return [f"{what}: {listed(keys)}"] if keys else []


def listed(keys: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(keys[:5]) + more


def weights_file(path: Path) -> Path:
    """The safetensors file of a component, whichever of the names diffusers and transformers give it."""
    read_json(path / "config.json")
    for name in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            file = path / f"{name}{variant}.safetensors"
            if file.exists():
                return file
    raise ModelError(path, "has no .safetensors file")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a component. Raises ModelError."""
    file = weights_file(path)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(file, f"cannot be read: {error}") from None
