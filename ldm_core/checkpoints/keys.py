"""The names and dtypes that merging and pruning programs leave behind, as the research code has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

WRAPPERS = ("module.", "_forward_module.", "_orig_mod.")  # of training on many devices, around every name
TEXT_MODEL = re.compile(r"^(cond_stage_model\.transformer\.)(embeddings|encoder|final_layer_norm)\.")
# stored with more digits than anything here computes with, or with fewer than half precision holds
CASTS = {
    torch.float64: torch.float32,
    torch.float8_e4m3fn: torch.float16,
    torch.float8_e5m2: torch.float16,
}


class Tidied(Mapping[str, Tensor]):
    """A state dict under the research code's names, its tensors float32, float16 or bfloat16 where they are floats."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        wrapper = next((one for one in WRAPPERS if all(name.startswith(one) for name in state)), "")
        self._names = {TEXT_MODEL.sub(r"\1text_model.\2.", name.removeprefix(wrapper)): name for name in state}
        self._names |= {name: name for name in state if name in self._names}  # the usual name goes before another

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._state[self._names[name]]
        return tensor.to(CASTS[tensor.dtype]) if tensor.dtype in CASTS else tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
