"""Counts rows of U-Net calls that differ from what the same input gives elsewhere; run by test_row_counts.py.

python -m tests.ldm_core.rows THREADS DTYPE prints a JSON object: the inputs compared and where any differed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ldm_core.acceleration.accelerate import accelerate
from ldm_core.loading.model import load_model
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from ldm_core.row_counts import Ladder

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin"
SD = UNetConfig(  # Stable Diffusion's four levels of two blocks, narrower
    in_channels=4, block_out_channels=(32, 64, 64, 64), cross_attention_dim=32, attention_head_dim=8,
    norm_num_groups=16,
)  # fmt: skip
SIZES = ((4, 4), (4, 20), (5, 7), (8, 8))
INPUTS, ROWS, ORDERS = 16, 2, 2


class Inputs:
    """Random latents, timesteps and contexts of several magnitudes."""

    def __init__(self, config: UNetConfig, size: tuple[int, int], dtype: torch.dtype) -> None:
        made = torch.Generator().manual_seed(sum(size))
        scale = torch.tensor([0.1, 0.5, 1.0, 4.0])[torch.randint(4, (INPUTS,), generator=made)].to(dtype)
        self.x = torch.randn(INPUTS, config.in_channels, *size, generator=made).to(dtype) * scale.view(-1, 1, 1, 1)
        self.t = torch.randint(1000, (INPUTS,), generator=made).float()
        width = config.cross_attention_dim or 1
        self.context = torch.randn(INPUTS, 48, width, generator=made).to(dtype) * scale.view(-1, 1, 1)
        classes = config.num_class_embeds
        self.labels = torch.randint(classes, (INPUTS,), generator=made) if classes else None

    def through(self, unet: UNet, count: int, order: Tensor) -> Tensor:
        """The U-Net's result for each input, computed in calls of `count` rows in that order."""
        out = torch.empty_like(self.x[:, : unet.config.out_channels])
        for rows in order.split(count):
            labels = None if self.labels is None else self.labels[rows]
            out[rows] = unet(self.x[rows], self.t[rows], self.context[rows], labels)
        return out


def unets(dtype: torch.dtype) -> Iterator[tuple[str, UNet]]:
    """Both built-in ones, and a small one like Stable Diffusion's with random weights."""
    for name in ("scenes", "scenes-superres"):
        yield name, load_model(BUILTIN / name, "cpu", dtype).unet
    torch.manual_seed(0)
    yield "sd", accelerate(UNet(SD).to(dtype))


@torch.inference_mode()
def main(threads: int, dtype: torch.dtype) -> None:
    torch.set_num_threads(threads)
    compared, differ = 0, {}
    for name, unet in unets(dtype):
        for size in SIZES:
            inputs, made = Inputs(unet.config, size, dtype), torch.Generator().manual_seed(0)
            expected = inputs.through(unet, ROWS, torch.arange(INPUTS))
            counts = Ladder(unet, inputs.x.device, dtype, ROWS).counts(inputs.x, tiled=False)
            compared += INPUTS
            for count in (*[ROWS] * ORDERS, *counts[1:]):
                found = inputs.through(unet, count, torch.randperm(INPUTS, generator=made))
                wrong = int((found != expected).flatten(1).any(1).sum())
                if wrong:
                    differ[f"{name} {size} {count} rows"] = wrong
    print(json.dumps({"compared": compared, "counts": counts, "differ": differ}))


if __name__ == "__main__":
    main(int(sys.argv[1]), getattr(torch, sys.argv[2]))
