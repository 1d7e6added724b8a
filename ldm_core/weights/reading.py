"""Weights from disk into a network, strictly: what is missing, unexpected, misshapen or not finite is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ldm_core.errors import ModelError
from ldm_core.model_directory.json_files import read_json
from ldm_core.model_directory.weight_files import find_weights, read_header
from ldm_core.weights.checkpoint import open_checkpoint
from ldm_core.weights.mapped import DTYPES, mapped
from ldm_core.weights.placing import MAIN_MEMORY, Place, placed

Module = TypeVar("Module", bound=nn.Module)


def build_strictly(
    build: Callable[[], Module], state: dict[str, Tensor], path: Path, place: Place = MAIN_MEMORY
) -> Module:
    """A network with these weights, which are those of `path`, at its place. Empties `state`.

    It takes memory only once its names and shapes are known to be those of the weights. Where the place is main memory
    the weights still lie in their file (`placing.release_files`). Raises ModelError.
    """
    with torch.device("meta"):
        network = build_or_refuse(build, path)
    if any(value.is_meta for value in state.values()):
        _refuse(path, _mismatches(network, state))
        return network
    mismatches = _mismatches(network, state)
    moved, useless = placed(state, MAIN_MEMORY if mismatches else place)
    _refuse(path, {**mismatches, **useless})
    if any(True for _ in network.buffers()):  # they are computed as a network is built
        with _parameters_on_meta():
            network = build_or_refuse(build, path)
    network.load_state_dict(moved, assign=True)
    return network.to(place.device, place.dtype)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Networks that this thread builds get parameters without numbers, and buffers with theirs."""
    thread = threading.get_ident()

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        ours = threading.get_ident() == thread
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad) if ours else None

    hook = register_module_parameter_registration_hook(on_meta)  # type: ignore[arg-type]  # what it gives is registered
    try:
        yield
    finally:
        hook.remove()


def build_or_refuse(build: Callable[[], Module], path: Path) -> Module:
    """The network whose weights are in the file `path`. Raises ModelError where its configuration cannot be built."""
    try:
        return build()
    except Exception as error:  # of the transformers library, for sizes that do not fit each other
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(path.parent / "config.json", f"describes no network that can be built: {reason}") from None


def _mismatches(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """By what is wrong, the names of weights that are not those of the network."""
    expected = module.state_dict()
    both = {key: value for key, value in state.items() if key in expected}
    found = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key, value in both.items() if value.shape != expected[key].shape],
        "of numbers that are no weights": [key for key, value in both.items() if _alien(value, expected[key])],
    }
    return {what: keys for what, keys in found.items() if keys}


def _refuse(path: Path, problems: Mapping[str, list[str]]) -> None:
    """Raises ModelError with all problems, where there is one."""
    if told := [f"{what}: {listed(keys)}" for what, keys in problems.items() if keys]:
        raise ModelError(path, "; ".join(told))


def _alien(value: Tensor, expected: Tensor) -> bool:
    """Such as quantised weights, which mean something else than what they count."""
    return expected.is_floating_point() and not value.is_floating_point()


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
        with safe_open(file, framework="pt"):  # refuses what its format forbids beside
            return mapped(file, header)
    except (SafetensorError, OSError) as error:
        raise ModelError(file, f"cannot be read: {error}") from None


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """By the reader of research checkpoints, which runs nothing that is in a file."""
    with open_checkpoint(file) as state:
        read = dict(state)
    return {name: tensor.to("meta") for name, tensor in read.items()} if only_headers() else read
