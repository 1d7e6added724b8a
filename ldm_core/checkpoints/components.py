"""Components of a model directory, written from the tensors of a checkpoint: each one found, checked, read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.checkpoints.names import Source
from ldm_core.checkpoints.writing import DTYPES, write_tensors
from ldm_core.errors import ModelError
from ldm_core.model_directory.components import write_json
from ldm_core.weights.reading import listed

TRANSFORMERS = "model.safetensors"
DIFFUSERS = "diffusion_pytorch_model.safetensors"


class MissingWeights(ModelError):
    """A checkpoint lacks some of a component's weights."""


@dataclass(eq=False)
class Checkpoint:
    """The tensors of one file and which of them have been taken; `config` is what asks for them."""

    file: Path
    config: Path
    state: Mapping[str, Tensor]
    progress: Callable[[str], None]
    used: set[str] = field(default_factory=set)

    def expect(self, what: str, prefix: str, advice: str) -> None:
        """Raises ModelError where no weight at all starts with `prefix`."""
        if not any(key.startswith(prefix) for key in self.state):
            raise ModelError(self.file, f"holds no {what} (no {prefix}*); {advice}")

    def write(
        self, folder: Path, config: Mapping[str, Any], wanted: Mapping[str, Tensor], source: Callable[[str], Source],
        prefix: str = "", rename: Callable[[str], str] = str, extra: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """A component: what is `wanted`, as tensors on no device, and of `extra` what is there.

        `source` says where a parameter comes from below `prefix`; `rename` is applied to the whole key. Raises
        ModelError, naming what is missing, of another shape, of another dtype or not finite.
        """
        self.progress(f"{folder.name}: {sum(tensor.numel() for tensor in wanted.values()) / 1e6:.1f} M parameters")
        sources = {name: source(name) for name in wanted}
        keys = {name: rename(prefix + found.key) for name, found in sources.items()}
        shapes = self._shapes(wanted, sources, keys)
        for name in extra:
            if (key := prefix + name) in self.state:
                keys[name], sources[name] = key, Source(name)
                shapes[name] = self.state[key].dtype, tuple(self.state[key].shape)
        self.used |= set(keys.values())

        def read(name: str) -> Tensor:
            return sources[name].of(self.state[keys[name]])

        def check(name: str, tensor: Tensor) -> None:
            low, high = tensor.aminmax()  # one pass; not-a-number spreads
            if not (low.isfinite() and high.isfinite()):
                raise ModelError(self.file, f"{keys[name]} is not finite")

        write_json(folder / "config.json", config)
        file = folder / (DIFFUSERS if "_class_name" in config else TRANSFORMERS)
        write_tensors(file, shapes, read, check)

    def _shapes(
        self, wanted: Mapping[str, Tensor], sources: Mapping[str, Source], keys: Mapping[str, str]
    ) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        missing = [key for key in keys.values() if key not in self.state]
        if missing:
            raise MissingWeights(self.file, f"lacks what {self.config.name} asks for: {listed(missing)}")
        shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for name, ours in wanted.items():
            tensor = self.state[keys[name]]
            found = sources[name].of(torch.empty_like(tensor, device="meta"))
            if found.shape != ours.shape:
                raise ModelError(
                    self.file, f"{keys[name]} has shape {tuple(tensor.shape)}; {self.config.name} asks for another"
                )
            if tensor.dtype not in DTYPES:
                raise ModelError(self.file, f"{keys[name]} is {tensor.dtype}; float32, float16 and bfloat16 are taken")
            shapes[name] = tensor.dtype, tuple(found.shape)
        return shapes

    def refuse_unused(self, ignored: tuple[str, ...]) -> None:
        """Whatever was not taken and does not start with one of `ignored` is named."""
        left = [key for key in self.state if key not in self.used and not key.startswith(ignored)]
        if left:
            raise ModelError(self.file, f"holds weights that {self.config.name} has no place for: {listed(left)}")


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """What has to be found in a checkpoint."""
    return {name: value for name, value in network.state_dict().items() if not name.endswith("position_ids")}
