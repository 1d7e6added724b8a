"""The size that a model was trained at, which a configuration does not always say."""

from __future__ import annotations

from ldm_core.checkpoints.conditions import OPEN_CLIP_PAD, ConditionPart
from ldm_core.errors import ModelError
from ldm_core.networks.autoencoder import AutoencoderConfig
from ldm_core.networks.unet_config import UNetConfig

# Stable Diffusion 2's configurations for v-prediction say 64; its models of them (768-v-ema, v2-1_768) draw 768 px
SD2_V_SAID, SD2_V_SIDE = 64, 96
MAX_SIZE = 2**13  # pixels


def latent_side(
    said: int, size: int | None, unet: UNetConfig, first_stage: AutoencoderConfig, condition: ConditionPart | None,
    prediction: str,
) -> int:  # fmt: skip
    """The side of the latents: of `size` pixels where one is given, else `said` in the yaml, else the published one.

    Raises ModelError for a size that is no multiple of what the networks halve.
    """
    if size is not None:
        multiple = first_stage.factor * 2 ** (len(unet.block_out_channels) - 1)
        if not multiple <= size <= MAX_SIZE or size % multiple:
            raise ModelError("--size", f"must be a multiple of {multiple} up to {MAX_SIZE}, got {size}")
        return size // first_stage.factor
    text_to_image = unet.in_channels == first_stage.latent_channels
    of_sd2 = condition is not None and condition.pad == OPEN_CLIP_PAD
    published = of_sd2 and text_to_image and prediction == "v_prediction" and said == SD2_V_SAID
    return SD2_V_SIDE if published else said
