"""A latent diffusion model put together, and the readable loop that samples from it.

The worker's engine runs the same `tasks.begin`, `predict`, `samplers.ddim_step` and `tasks.finish` for many jobs at
once; `generate` is what it must equal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ldm_core import tasks
from ldm_core.autoencoder import AutoencoderKL
from ldm_core.config import ModelCard
from ldm_core.params import GenerationParams
from ldm_core.samplers import ddim_step, guide
from ldm_core.schedule import NoiseSchedule
from ldm_core.tasks import Sample
from ldm_core.text_encoder import TextEncoder
from ldm_core.unet import UNet


@dataclass(kw_only=True)
class LatentDiffusion:
    """The frozen networks of one model on one device. Latents are float32 whatever the networks' dtype."""

    card: ModelCard
    unet: UNet
    autoencoder: AutoencoderKL
    text: TextEncoder
    schedule: NoiseSchedule
    low_res_schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    _blank: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def inpaints_by_concat(self) -> bool:
        """Whether the U-Net takes a mask and the masked picture's latents behind the noisy latents."""
        return self.unet.config.in_channels == 2 * self.autoencoder.config.latent_channels + 1

    def encode_prompt(self, prompt: str) -> Tensor:
        """(1, L, D)."""
        return self.text.encode(prompt)

    def moments(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both scaled, of a picture's latents: (1, 3, H, W) → 2 × (1, C, h, w)."""
        mean, logvar = self.autoencoder.moments(picture.to(self.dtype))
        scale = self.autoencoder.config.scaling_factor
        return mean * scale, torch.exp(0.5 * logvar) * scale

    def blank_moments(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """`moments` of an all-grey picture of that latent size, computed once."""
        if (height, width) not in self._blank:
            factor = self.autoencoder.config.factor
            grey = torch.zeros(1, 3, height * factor, width * factor, device=self.device)
            self._blank[height, width] = self.moments(grey)
        return self._blank[height, width]

    def predict(
        self, x: Tensor, t: Tensor, context: Tensor, concat: Tensor | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        """One U-Net call over B rows: (B, C, h, w), (B,), (B, L, D), (B, C', h, w), (B,) → (B, C, h, w) float32."""
        x = x if concat is None else torch.cat([x, concat], dim=1)
        return self.unet(x.to(self.dtype), t, context.to(self.dtype), class_labels).float()

    @torch.inference_mode()
    def generate(
        self,
        params: GenerationParams,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        *,
        rows: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Runs one job alone and returns its `params.n` pictures.

        `rows` is the fixed number of rows of every U-Net call (ARCHITECTURE.md, "Same bytes"). `progress` is called
        with (steps done, steps). Raises RequestError for what the model does not take.
        """
        pictures = []
        for index in range(params.n):
            sample = tasks.begin(self, params, index, image, mask)
            while not sample.done:
                self.advance(sample, rows)
                if progress is not None:
                    progress(index * params.steps + sample.step, params.n * params.steps)
            pictures.append(tasks.finish(self, sample))
        return pictures

    def advance(self, sample: Sample, rows: int = 2) -> None:
        """One denoising step of one picture, in calls of exactly `rows` rows."""
        t, alpha_bar, alpha_bar_prev, sigma = (
            column[sample.step : sample.step + 1].to(self.device)
            for column in (sample.plan.t, sample.plan.alpha_bar, sample.plan.alpha_bar_prev, sample.plan.sigma)
        )
        outs = []
        for chunk in sample.context.split(rows):
            context = torch.cat([chunk, chunk[:1].expand(rows - len(chunk), -1, -1)])
            repeated = (
                None if c is None else c.expand(rows, *c.shape[1:]) for c in (sample.concat, sample.class_labels)
            )
            out = self.predict(sample.x.expand(rows, -1, -1, -1), t.expand(rows), context, *repeated)
            outs.append(out[: len(chunk)])
        out = torch.cat(outs)
        if len(out) == 2:
            out = guide(out[:1], out[1:], torch.full((1,), sample.guidance_scale, device=self.device))
        sample.x = ddim_step(
            sample.x,
            out,
            alpha_bar,
            alpha_bar_prev,
            sigma,
            sample.draw_noise(),
            self.schedule.prediction_type,
            self.schedule.clip_sample,
        )
        sample.step += 1
