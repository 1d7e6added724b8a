"""The condition of inpainting models: the mask and the masked image's latents as channels behind the noisy latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ldm_core.model_directory.config_reader import read_config
from ldm_core.networks.conditioning import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskStyle:
    """How a U-Net was trained to see a hole. The defaults are Stable Diffusion's."""

    mask_first: bool = True  # the mask before the masked image's latents
    mask_low: float = 0.0  # the mask's value where the image is known; 1 in the hole
    fill: float = 0.0  # the image's value in the hole, in [-1, 1]
    scaled: bool = True  # whether the latents are multiplied by the first stage's scaling factor

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "condition/config.json") -> MaskStyle:
        return read_config(cls, data, path, fixed={})

    def to_json(self) -> dict[str, Any]:
        return {"_class_name": "MaskedPicture", **asdict(self)}


class MaskedPicture(Condition):
    """The condition of a model that inpaints and takes nothing else: a hole, seen in a style of its own."""

    def __init__(self, style: MaskStyle) -> None:
        super().__init__()
        self.config = style
