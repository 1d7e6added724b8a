"""Weights from disk into a network, strictly: what is missing, unexpected, misshapen or not finite is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm_core.errors import ModelError
from ldm_core.model_directory.json_files import read_json
from ldm_core.model_directory.weight_files import find_weights, read_header
from ldm_core.weights.checkpoint import open_checkpoint

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

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


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """`load_state_dict` whose error lists what is missing, unexpected, of another shape or not finite.

    A state on the meta device is compared and not loaded.
    """
    expected = module.state_dict()
    problems = [
        *_problem("missing", [key for key in expected if key not in state]),
        *_problem("unexpected", [key for key in state if key not in expected]),
        *_problem("of another shape", [k for k, v in state.items() if k in expected and v.shape != expected[k].shape]),
        *_problem(
            "of numbers that are no weights", [k for k, v in state.items() if k in expected and _alien(v, expected[k])]
        ),
        *_problem("not finite", [k for k, v in state.items() if not v.is_meta and not v.isfinite().all()]),
    ]
    if problems:
        raise ModelError(path, "; ".join(problems))
    if not any(value.is_meta for value in expected.values()):
        module.load_state_dict(state, assign=False)


def _alien(value: Tensor, expected: Tensor) -> bool:
    """Such as quantised weights, which mean something else than what they count."""
    return expected.is_floating_point() and not value.is_floating_point()


def _problem(what: str, keys: list[str]) -> list[str]:
    return [f"{what}: {listed(keys)}"] if keys else []


def listed(keys: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(keys[:5]) + more


def weights_file(path: Path) -> Path:
    """What to name when a component's weights are at fault: its file, or the first of several. Raises ModelError."""
    read_json(path / "config.json")
    return find_weights(path)[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a component, from safetensors or pickles, in one file or several. Raises ModelError.

    Under `torch.device("meta")` only headers are read, and the tensors have no numbers.
    """
    state: dict[str, Tensor] = {}
    for file in find_weights(path):
        found = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
        if twice := sorted(state.keys() & found.keys()):
            raise ModelError(file, f"repeats what a file before it holds: {listed(twice)}")
        state |= found
    return state


def only_headers() -> bool:
    """Whether networks are built for their shapes alone."""
    return torch.get_default_device().type == "meta"


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    header = read_header(file)
    if unknown := sorted(name for name, tensor in header.items() if tensor.dtype not in DTYPES):
        raise ModelError(file, f"{listed(unknown)} of type {header[unknown[0]].dtype}, which is not read here")
    if only_headers():
        return {name: torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype]) for name, tensor in header.items()}
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(file, f"cannot be read: {error}") from None


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """By the reader of research checkpoints, which runs nothing that is in a file."""
    with open_checkpoint(file) as state:
        read = dict(state)
    return {name: tensor.to("meta") for name, tensor in read.items()} if only_headers() else read
