"""Reads a Lightning `.ckpt` or a `.safetensors` file without running anything that is in it."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm_core.errors import ModelError

REFUSED_GLOBAL = re.compile(r"Unsupported global: GLOBAL (\S+)|Can only build Tensor.* (\S+)$", re.MULTILINE)


class _Inert:
    """Stands where a pickle names a class that is of no use here; nothing is ever called on it."""


# Lightning writes its callback's class beside the weights, as the key of its state
INERT = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Mapping[str, Tensor]]:
    """The state dict, tensors read from disk only when they are used. Raises ModelError."""
    if path.suffix != ".safetensors":
        yield _unpickled(path)
        return
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(path, f"cannot be read: {_first_line(error)}") from None
    with opened as stored:
        yield _Stored(stored)


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    inert = [(_Inert, name) for name in INERT]
    try:
        with torch.serialization.safe_globals(inert):  # type: ignore[arg-type]
            # files from before torch 1.6 are no zip and cannot be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = REFUSED_GLOBAL.search(str(error))
        named = f" ({refused[1] or refused[2]})" if refused else ""
        raise ModelError(path, f"holds code beside its weights{named}, which is not run; it is refused") from None
    except Exception as error:  # a damaged pickle makes its reader raise anything
        raise ModelError(path, f"cannot be read: {_first_line(error)}") from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ModelError(path, "holds no state dict")
    return state


class _Stored(Mapping[str, Tensor]):
    """A safetensors file as a mapping that reads one tensor at a time."""

    def __init__(self, stored: safe_open) -> None:
        self._stored, self._names = stored, set(stored.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return torch.as_tensor(self._stored.get_tensor(name))  # type: ignore[no-untyped-call]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
