"""The networks that are measured, as configurations alone, and what a pass through each costs in arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ldm_core.model_directory.json_files import read_json
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig

BUILTIN = Path(__file__).parents[1] / "ldm_core/builtin"


@dataclass(frozen=True)
class Denoiser:
    """A U-Net at one latent size, with the length of its condition."""

    config: UNetConfig
    side: int
    tokens: int = 77

    def build(self) -> UNet:
        return UNet(self.config)

    def inputs(self, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents, timesteps and context of that many rows, seeded."""
        made = torch.Generator().manual_seed(rows)
        x = torch.randn(rows, self.config.in_channels, self.side, self.side, generator=made)
        width = self.config.cross_attention_dim
        context = None if width is None else torch.randn(rows, self.tokens, width, generator=made)
        times = torch.linspace(1, 999, rows).long()
        return x.to(dtype), times, None if context is None else context.to(dtype)

    def gflop(self) -> float:
        """GFLOP of one row, by torch's own counter."""
        with torch.device("meta"):
            network = UNet(self.config)
            x, t, context = self.inputs_on_meta()
        return _counted(lambda: network(x, t, context))

    def inputs_on_meta(self, rows: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor | None]:
        x, t, context = self.inputs(rows, dtype)
        return x.to("meta"), t.to("meta"), None if context is None else context.to("meta")


@dataclass(frozen=True)
class FirstStage:
    """An autoencoder's decoder at one latent size."""

    config: AutoencoderConfig
    side: int

    def build(self) -> Autoencoder:
        return Autoencoder(self.config)

    def inputs(self, rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.Generator().manual_seed(rows)
        channels = self.config.latent_channels
        return torch.randn(rows, channels, self.side, self.side, generator=made).to(dtype)

    def gflop(self) -> float:
        """GFLOP to decode one image, by torch's own counter."""
        with torch.device("meta"):
            network = Autoencoder(self.config)
        z = self.inputs(1).to("meta")
        return _counted(lambda: network.decode(z))


ATTENDS = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
SD1 = UNetConfig(cross_attention_dim=768)
TXT2IMG = UNetConfig(cross_attention_dim=1280)
SUPERRES = UNetConfig(
    in_channels=6, out_channels=3, block_out_channels=(160, 320, 320, 640), attention_head_dim=32,
    down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",), mid_block_type="UNetMidBlock2D",
    up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3, cross_attention_dim=None,
)  # fmt: skip
INPAINTING = UNetConfig(
    in_channels=7, out_channels=3, block_out_channels=(256, 512, 768, 1024), attention_head_dim=32,
    down_block_types=("ResnetDownsampleBlock2D",) + ("AttnDownBlock2D",) * 3, mid_block_type="UNetMidBlock2D",
    up_block_types=("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",), cross_attention_dim=None,
    downsample_type="resnet", upsample_type="resnet",
)  # fmt: skip
VQ_F4 = AutoencoderConfig(
    latent_channels=3, block_out_channels=(128, 256, 512), num_vq_embeddings=8192, vq_embed_dim=3, scaling_factor=1.0,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip

DENOISERS = {
    "scenes": Denoiser(UNetConfig.from_json(read_json(BUILTIN / "scenes/unet/config.json")), 16, tokens=16),
    "sd1-256": Denoiser(SD1, 32),
    "sd1-512": Denoiser(SD1, 64),
    "txt2img-256": Denoiser(TXT2IMG, 32),
    "superres-256": Denoiser(SUPERRES, 64),
    "inpainting-512": Denoiser(INPAINTING, 128),
}
FIRST_STAGES = {
    "scenes": FirstStage(AutoencoderConfig.from_json(read_json(BUILTIN / "scenes/vae/config.json")), 16),
    "kl-f8-256": FirstStage(AutoencoderConfig(), 32),
    "kl-f8-512": FirstStage(AutoencoderConfig(), 64),
    "vq-f4-256": FirstStage(VQ_F4, 64),
}


def matrix_rate(dtype: torch.dtype, device: str = "cpu", side: int = 2048) -> float:
    """GFLOP/s of a large product of matrices: the limit that everything else is held against."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        finish(device)
        started = time.perf_counter()
        _ = left @ right
        finish(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e9


def peer_of(network: UNet | Autoencoder) -> Any:
    """diffusers' own class for a network's configuration, on the same weights in memory."""
    import diffusers  # here, because what measures ours alone does not need it

    config = network.config.to_json()
    peer = getattr(diffusers, config["_class_name"]).from_config(config).eval().requires_grad_(False)
    peer.load_state_dict(network.state_dict(), assign=True)
    return peer


def finish(device: str) -> None:
    """Waits until the device has nothing left to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _counted(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e9
