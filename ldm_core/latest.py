"""Keeps what was computed last, so that it need not be computed again; and says when that may be."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

changes = attrgetter("_version")  # how often a tensor was written to

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


class Weights:
    """Says when any of a module's weights has changed, been moved or converted."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._known: Hashable = None
        self._all: list[Tensor] = []

    def state(self) -> Hashable:
        """Another one where weights are others.

        Not seen are those that are replaced one by one by other tensors, or that inference mode made and changes.
        """
        state = self._state()
        if state != self._known:
            self._all = [weight for weight in self._module.parameters() if not weight.is_inference()]
            self._known = state = self._state()
        return state

    def _state(self) -> Hashable:
        first = next(self._module.parameters())
        return first.dtype, first.data_ptr(), sum(map(changes, self._all))


def only_infers(device: torch.device) -> bool:
    """Whether nothing here learns or is being compiled, and dtypes are what they seem: no autocast."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return device.type not in {"cpu", "cuda"} or not torch.is_autocast_enabled(device.type)
