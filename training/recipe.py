"""Every number of a training run in one place: network sizes, samples, learning rates."""

from __future__ import annotations

from dataclasses import dataclass, field

from ldm_core.networks.autoencoder import AutoencoderConfig
from ldm_core.networks.unet_config import UNetConfig

LATENT_CHANNELS = 4
SCALING_FACTOR = 0.08333  # that of the published x4 upscaler; diffusers' pipeline for it takes no other


def autoencoder_config(size: int, widths: tuple[int, ...], groups: int) -> AutoencoderConfig:
    """A KL autoencoder for `size` pixels with one residual block a level; f = 2^(levels - 1)."""
    return AutoencoderConfig(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        norm_num_groups=groups,
        sample_size=size,
        scaling_factor=SCALING_FACTOR,
    )


def unet_config(
    size: int,
    extra_channels: int,
    widths: tuple[int, ...],
    attends: tuple[bool, ...],
    context: int,
    classes: int | None,
) -> UNetConfig:
    """A U-Net for latents of `size`, one residual block a level on the way down, attending to text `context` wide.

    Four heads wherever it attends: on a CPU many narrow heads take most of a step.
    """
    return UNetConfig(
        in_channels=LATENT_CHANNELS + extra_channels,
        sample_size=size,
        block_out_channels=widths,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=context,
        norm_num_groups=16,
        num_class_embeds=classes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage's length and step size; `batch` x `steps` samples are seen."""

    steps: int
    batch: int
    learning_rate: float
    ema_decay: float = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What the shipped weights came from. Sizes in pixels; learning rates are AdamW's."""

    pictures: int = 40_000
    size: int = 64
    text_width: int = 128
    text_layers: int = 2
    kl_weight: float = 1e-6
    caption_dropout: float = 0.1  # captions emptied, for classifier-free guidance
    inpaint_share: float = 0.3
    snr_gamma: float = 5.0
    noise_levels: int = 1000  # of the small image in super-resolution
    trained_noise_levels: int = 100
    autoencoder: AutoencoderConfig = field(default_factory=lambda: autoencoder_config(64, (32, 64, 96), 16))
    unet: UNetConfig = field(
        default_factory=lambda: unet_config(16, LATENT_CHANNELS + 1, (64, 128, 192), (False, True, True), 128, None)
    )
    superres: UNetConfig = field(
        default_factory=lambda: unet_config(16, 3, (64, 96, 128), (False, False, True), 128, 1000)
    )
    autoencoder_stage: Stage = Stage(steps=2_000, batch=32, learning_rate=8e-4)
    text_stage: Stage = Stage(steps=1_000, batch=128, learning_rate=1e-3)
    unet_stage: Stage = Stage(steps=7_000, batch=32, learning_rate=1e-3)
    superres_stage: Stage = Stage(steps=2_500, batch=32, learning_rate=1e-3)


TINY = Recipe(
    pictures=16,
    text_width=32,
    text_layers=1,
    autoencoder=autoencoder_config(64, (16, 16, 32), 8),
    unet=unet_config(16, LATENT_CHANNELS + 1, (16, 32, 32), (False, True, True), 32, None),
    superres=unet_config(16, 3, (16, 32, 32), (False, False, True), 32, 1000),
    autoencoder_stage=Stage(steps=3, batch=4, learning_rate=1e-3),
    text_stage=Stage(steps=3, batch=8, learning_rate=1e-3),
    unet_stage=Stage(steps=3, batch=4, learning_rate=1e-3),
    superres_stage=Stage(steps=3, batch=4, learning_rate=1e-3),
)
RECIPES = {"scenes": Recipe(), "tiny": TINY}
