"""Keeps what was computed last, so that it need not be computed again; and says when that may be."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Latest(Generic[T]):
    """Results by key, those of the latest calls only."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, T] = {}  # the latest last

    def get(self, key: Hashable, compute: Callable[[], T], keep: int) -> T:
        """What was computed for this key, or is now; the `keep` latest stay."""
        result = self._kept.pop(key, None)
        if result is None:
            result = compute()
        self._kept[key] = result
        while len(self._kept) > keep:
            self._kept.pop(next(iter(self._kept)), None)
        return result

    def __deepcopy__(self, memo: object) -> Latest[T]:
        return Latest()  # a copied network has weights at other places, where they can change


def version(weight: Tensor) -> Hashable:
    """Another one where the weight is another, or has changed: training goes on after an evaluation."""
    return weight.dtype, weight.data_ptr(), 0 if weight.is_inference() else weight._version


def only_infers(device: torch.device) -> bool:
    """Whether nothing here learns or is being compiled, and dtypes are what they seem: no autocast."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return device.type not in {"cpu", "cuda"} or not torch.is_autocast_enabled(device.type)
