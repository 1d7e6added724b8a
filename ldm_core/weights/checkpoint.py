"""Reads a Lightning `.ckpt` or a `.safetensors` file without running anything that is in it."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm_core.errors import ModelError
from ldm_core.weights.file_kinds import Kind, kind_of
from ldm_core.weights.inert import STAND_INS
from ldm_core.weights.recognising import refuse_other_pickles

REFUSED_GLOBAL = re.compile(r"nsupported (?:global: )?GLOBAL (\S+)|Can only build Tensor.* (\S+)$", re.MULTILINE)
STATES = ("state_dict", "params_ema", "params", "model", "module")  # where training programs put the weights


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Mapping[str, Tensor]]:
    """The state dict, tensors read from disk only when they are used. Raises ModelError.

    The file's own bytes say how it is stored, not its name.
    """
    kind = kind_of(path)
    if kind is not Kind.SAFETENSORS:
        yield _state_dict(path, _unpickled(path, kind))
        return
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    with opened as stored:
        yield _Stored(path, stored)


def _unpickled(path: Path, kind: Kind) -> Any:
    try:
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # of pickle protocols
            # files from before torch 1.6 are no zip and cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind is Kind.ZIP)
    except pickle.UnpicklingError as error:
        refused = REFUSED_GLOBAL.search(str(error))
        if refused is None:
            raise _unread(path, error) from None
        named = refused[1] or refused[2]
        raise ModelError(path, f"holds code beside its weights ({named}), which is not run; it is refused") from None
    except Exception as error:  # a damaged pickle makes its reader raise anything
        raise _damaged(path, error) from None


def _state_dict(path: Path, loaded: Any) -> Mapping[str, Tensor]:
    """The tensors by name; what else lies among them is left out."""
    refuse_other_pickles(path, loaded)
    if not isinstance(loaded, dict):
        raise ModelError(path, "holds no state dict")
    state = next((loaded[name] for name in STATES if isinstance(loaded.get(name), dict)), loaded)
    tensors = {
        name: value.detach()
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    }
    if state and not tensors:
        raise ModelError(path, "holds no state dict")
    return tensors


class _Stored(Mapping[str, Tensor]):
    """A safetensors file as a mapping that reads one tensor at a time."""

    def __init__(self, path: Path, stored: safe_open) -> None:
        self._path, self._stored, self._names = path, stored, set(stored.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        try:
            return torch.as_tensor(self._stored.get_tensor(name))  # type: ignore[no-untyped-call]
        except Exception as error:  # of a type of numbers that torch does not have
            raise ModelError(self._path, f"{name} cannot be read ({error})") from None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _unread(path: Path, error: Exception) -> ModelError:
    """torch's own sentence advises to run what is in the file: only its reason, further down, is repeated."""
    if "Unsupported operand" in str(error):
        return ModelError(path, "is pickled by a protocol other than torch.save's own, 2; save it again as safetensors")
    reason = str(error).partition("WeightsUnpickler error:")[2].strip().splitlines() or ["it is no sound pickle"]
    return ModelError(path, f"cannot be read, as a file that is damaged or cut short ({reason[0]})")


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].removeprefix("Error while deserializing header: ")
    return ModelError(path, f"cannot be read, as a file that is damaged or cut short ({reason})")
