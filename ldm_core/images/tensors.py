"""Decoded input images as tensors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm_core.errors import InvalidImage

Known = tuple[Tensor, Tensor]  # image (1, 3, H, W) in [-1, 1], mask (1, 1, H, W), 1 = to be painted


def known_region(
    image: Image.Image | None, mask: Image.Image | None, width: int, height: int, device: torch.device
) -> Known:
    """Image and mask as tensors of `width` x `height` pixels. Raises InvalidImage."""
    if mask is None:
        raise InvalidImage("mask", "is required")
    known = image_tensor(image, "image")
    if mask.size != (known.shape[3], known.shape[2]):
        raise InvalidImage("mask", f"is {mask.size}, the image is {(known.shape[3], known.shape[2])}")
    white = torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32))[None, None]
    return padded(known, width, height).to(device), padded((white >= 127.5).float(), width, height).to(device)


def image_tensor(image: Image.Image | None, field: str) -> Tensor:
    """A PIL image as (1, 3, H, W) in [-1, 1]. Raises InvalidImage where there is none."""
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
