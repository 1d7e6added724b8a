"""Weights from their file to the device, the dtype and the memory in which they stay."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from ldm_core.huge_pages import huge_empty


@dataclass(frozen=True, slots=True)
class Place:
    """Where weights go, and as numbers of which dtype."""

    device: torch.device
    dtype: torch.dtype


MAIN_MEMORY = Place(torch.device("cpu"), torch.float32)


def placed(state: dict[str, Tensor], place: Place) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The weights at their place, and by what is wrong with them the names of those that are of no use.

    Empties `state`, so that each weight is held once. A weight moves as it is stored; the device converts and checks.
    """
    moved: dict[str, Tensor] = {}
    stored, narrowed = _Extremes(), _Extremes()
    for name in [*state]:
        value = state.pop(name).to(place.device).contiguous()
        moved[name] = _converted(value, place.dtype) if value.is_floating_point() else value
        stored.note(name, value)
        if moved[name].element_size() < value.element_size():
            narrowed.note(name, moved[name])
    bad = stored.not_finite()
    beyond = [name for name in narrowed.not_finite() if name not in bad]
    return moved, {"not finite": bad, f"beyond {str(place.dtype).removeprefix('torch.')}": beyond}


class _Extremes:
    """The smallest and the largest number of each weight, both NaN where any is. They stay on the device."""

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    def note(self, name: str, value: Tensor) -> None:
        if value.is_floating_point() and value.numel():
            self._found[name] = torch.stack(torch.aminmax(value)).double()

    def not_finite(self) -> list[str]:
        """The names of weights that are not finite everywhere. The one wait for the device."""
        if not self._found:
            return []
        finite = torch.stack([*self._found.values()]).isfinite().all(dim=1).tolist()
        return [name for name, ok in zip(self._found, finite, strict=True) if not ok]


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype == dtype or not value.is_cpu:
        return value.to(dtype)
    return huge_empty(*value.shape, dtype=dtype).copy_(value)


def release_files(network: nn.Module) -> None:
    """Copies what a network still has in mapped files, or in tensors of which it uses a part, into memory of its own.

    Call this once the layers are final: most of them have made layouts of their own from the files by then.
    """
    for tensor in chain(network.parameters(), network.buffers()):
        storage = tensor.untyped_storage()
        if tensor.is_cpu and (not storage.resizable() or storage.nbytes() != tensor.nbytes):
            tensor.data = huge_empty(*tensor.shape, dtype=tensor.dtype).copy_(tensor)
