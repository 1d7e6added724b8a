"""One folder of reference numbers: its checkpoint goes through `ldm import`, its inputs are given out by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ldm_core.checkpoints import import_checkpoint
from ldm_core.loading.model import load_first_stage, load_model
from ldm_core.model import LatentDiffusion
from ldm_core.networks.autoencoder import Autoencoder


@dataclass(eq=False)
class Case:
    """`folder` as the reference wrote it, `work` for what is imported from it."""

    folder: Path
    work: Path

    @cached_property
    def info(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "case.json").read_text()))

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "golden.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def get(self, name: str) -> Tensor | None:
        return self._tensors.get(name)

    def about(self, name: str) -> Mapping[str, Any]:
        """What `case.json` says of a tensor."""
        return dict(self.info["tensors"].get(name, {}))

    def outputs(self) -> list[str]:
        """The quantities that have to be compared: all that the case does not call an input."""
        names = dict.fromkeys([*self.info["tensors"], *self._tensors])
        return [name for name in names if self.about(name).get("role") != "input"]

    @property
    def runs(self) -> Mapping[str, Mapping[str, Any]]:
        """The parameters of each sampling run."""
        return dict(self.info.get("runs") or {})

    def context_and_channels(self) -> tuple[Tensor | None, Tensor | None]:
        """What the U-Net attends to, and what goes behind x along the channels."""
        context, channels = self.get("cond/context"), self.get("unet/cond")
        return (None, context) if self.kind == "semantic" else (context, channels)

    @property
    def kind(self) -> str:
        return str(self.info["kind"])

    @cached_property
    def model(self) -> LatentDiffusion:
        """The imported model, with the research code's own timesteps."""
        return self._loaded(self.imported)

    @cached_property
    def raw_model(self) -> LatentDiffusion:
        """The same with the weights that were not averaged."""
        return self._loaded(self._imported("raw", ema=False))

    @cached_property
    def autoencoder(self) -> Autoencoder:
        if self.kind != "ae":
            return self.model.autoencoder
        return load_first_stage(self.imported / "vqvae")

    @cached_property
    def imported(self) -> Path:
        """The directory that `ldm import` writes."""
        return self._imported("model", ema=None)

    def _loaded(self, directory: Path) -> LatentDiffusion:
        model = load_model(directory, "cpu", torch.float32)
        return replace(model, schedule=replace(model.schedule, timestep_spacing="compvis"))

    def _imported(self, name: str, ema: bool | None) -> Path:
        tokenizer = next(iter(self.folder.glob("bert-*")), None)
        out = self.work / self.folder.name / name
        return import_checkpoint(
            self.folder / "model.ckpt", self.folder / "model.yaml", out, ema=ema, tokenizer=tokenizer,
            progress=lambda _: None,
        )  # fmt: skip
