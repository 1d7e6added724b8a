"""Holes in pictures: reading them, showing them to a U-Net as channels, or holding what is around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm_core.component import read_config
from ldm_core.conditioning import Condition
from ldm_core.errors import InvalidImage
from ldm_core.noise import NoiseSource
from ldm_core.schedule import noised

if TYPE_CHECKING:
    from ldm_core.model import LatentDiffusion
    from ldm_core.tasks import Sample

Known = tuple[Tensor, Tensor]  # picture (1, 3, H, W) in [-1, 1], mask (1, 1, H, W), 1 = to be painted


@dataclass(frozen=True, slots=True, kw_only=True)
class HoleStyle:
    """How a U-Net was trained to see a hole. The defaults are Stable Diffusion's."""

    mask_first: bool = True  # the mask before the masked picture's latents
    mask_low: float = 0.0  # the mask's value where the picture is known; 1 in the hole
    fill: float = 0.0  # the picture's value in the hole, in [-1, 1]
    scaled: bool = True  # whether the latents are multiplied by the first stage's scaling factor

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "condition/config.json") -> HoleStyle:
        return read_config(cls, data, path, fixed={})

    def to_json(self) -> dict[str, Any]:
        return {"_class_name": "MaskedPicture", **asdict(self)}


class MaskedPicture(Condition):
    """The condition of a model that inpaints and takes nothing else: a hole, seen in a style of its own."""

    def __init__(self, style: HoleStyle) -> None:
        super().__init__()
        self.config = style


def inpainting_channels(
    model: LatentDiffusion, known: Known | None, shape: tuple[int, ...], noise: NoiseSource
) -> Tensor:
    """Mask and latents of the masked picture, (1, 1 + C, h, w); without a picture, a hole all over a blank one."""
    drawn = noise.draw(shape, model.device).to(model.dtype)
    style = model.hole_style
    if known is None:
        mean, std = model.blank_moments(shape[2], shape[3])
        mask = torch.ones(1, 1, *shape[2:], device=model.device)
    else:
        original, full_mask = known
        mean, std = model.moments(torch.where(full_mask < 0.5, original, style.fill))
        mask = F.interpolate(full_mask, size=shape[2:])
    mask = style.mask_low + (1 - style.mask_low) * mask
    latents = (mean + std * drawn).float()
    if not style.scaled:
        latents = latents / model.autoencoder.config.scaling_factor
    return torch.cat([mask, latents] if style.mask_first else [latents, mask], dim=1)


def keep_known(sample: Sample, x: Tensor, step: int) -> Tensor:
    """Latents `x` (1, C, h, w) with what is known put over them, at the noise level that `step` begins with."""
    if sample.kept is None or step >= len(sample.plan):
        return x
    latents, mask = sample.kept
    level = sample.plan.alpha_bar[step : step + 1].to(latents.device)
    known = noised(latents, sample.noise.draw(tuple(latents.shape), latents.device), level)
    return mask * known + (1 - mask) * x


def known_region(
    image: Image.Image | None, mask: Image.Image | None, width: int, height: int, device: torch.device
) -> Known:
    """Picture and mask as tensors of `width` x `height` pixels. Raises InvalidImage."""
    if mask is None:
        raise InvalidImage("mask", "is required")
    picture = picture_tensor(image, "image")
    if mask.size != (picture.shape[3], picture.shape[2]):
        raise InvalidImage("mask", f"is {mask.size}, the image is {(picture.shape[3], picture.shape[2])}")
    white = torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32))[None, None]
    return padded(picture, width, height).to(device), padded((white >= 127.5).float(), width, height).to(device)


def picture_tensor(image: Image.Image | None, field: str) -> Tensor:
    """A PIL picture as (1, 3, H, W) in [-1, 1]. Raises InvalidImage where there is none."""
    if image is None:
        raise InvalidImage(field, "is required")
    levels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32))
    return (levels / 127.5 - 1.0).permute(2, 0, 1)[None]


def label_tensor(image: Image.Image | None, width: int, height: int) -> Tensor:
    """A map of label ids, one a pixel, (1, H, W) int64. Raises InvalidImage where there is none."""
    if image is None:
        raise InvalidImage("map", "is required")
    ids = torch.from_numpy(np.array(image, dtype=np.int64))[None]
    return padded(ids[None].float(), width, height)[0].long()


def padded(x: Tensor, width: int, height: int) -> Tensor:
    """Repeats the last column and row up to the size that the networks need."""
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")
