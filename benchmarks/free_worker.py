"""A worker whose networks cost nothing, so that what is left is everything else. `benchmarks.overhead` starts it.

It is `ldm worker` without its prefork master, over the built-in `scenes`: tokenizer, noise, samplers, scheduling, PNG
and Redis are the real ones. With FREE_STEP_S set, every U-Net call sleeps so long, as the processor does while a
device works; into FREE_STEP_LOG, a file, goes the time at which each has ended, in Unix seconds.

    FREE_STEP_S=0.04 LDM_REDIS_URL=unix://... python -m benchmarks.free_worker
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import worker.process.main
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.conditioning import TextEncoder
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from worker.settings import WorkerSettings

SCENES = Path(__file__).parents[1] / "ldm_core/builtin/scenes"


class FreeUNet(UNet):
    """Gives back the latents that it was shown."""

    def __init__(self, config: UNetConfig, call_s: float) -> None:
        nn.Module.__init__(self)
        self.config, self._call_s = config, call_s
        self._log = os.environ.get("FREE_STEP_LOG", "")

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        if self._call_s:
            time.sleep(self._call_s)
        if self._log:
            with open(self._log, "a") as log:
                log.write(f"{time.time()}\n")
        return x[:, : self.config.out_channels]


class FreeAutoencoder(Autoencoder):
    """Every image is grey, and so are its latents."""

    def __init__(self, config: AutoencoderConfig) -> None:
        nn.Module.__init__(self)
        self.config, self.encoder = config, nn.Identity()

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (side // self.config.factor for side in image.shape[2:])
        grey = image.new_zeros(len(image), self.config.latent_channels, height, width)
        return grey, grey

    def decode(self, latents: Tensor, *, quantize: bool = True) -> Tensor:
        height, width = (side * self.config.factor for side in latents.shape[2:])
        return latents.new_zeros(len(latents), self.config.out_channels, height, width)


class FreeTransformer(nn.Module):
    """Every token means nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(width), requires_grad=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.nothing.expand(*token_ids.shape, -1)


def free_model(call_s: float = 0.0) -> LatentDiffusion:
    """`scenes`, its networks replaced."""
    model = load_model(SCENES, "cpu", torch.float32, {})
    assert isinstance(model.condition, TextEncoder) and model.unet.config.cross_attention_dim is not None
    model.condition.transformer = FreeTransformer(model.unet.config.cross_attention_dim)
    model.unet = FreeUNet(model.unet.config, call_s)
    model.autoencoder = FreeAutoencoder(model.autoencoder.config)
    return model


def load_models(settings: WorkerSettings) -> dict[str, LatentDiffusion]:
    """In the place of `worker.process.main.load_models`."""
    model = free_model(float(os.environ.get("FREE_STEP_S", "0")))
    return {model.card.id: model}


if __name__ == "__main__":
    worker.process.main.load_models = load_models
    sys.exit(worker.process.main.main())
