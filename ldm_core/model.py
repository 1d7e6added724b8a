"""A latent diffusion model put together: its parts, and one call of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ldm_core.card import ModelCard
from ldm_core.device import Program, as_it_is
from ldm_core.lru_cache import LRUCache
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.conditioning import Condition
from ldm_core.networks.masked_image import MaskedPicture, MaskStyle
from ldm_core.networks.unet import UNet
from ldm_core.row_counts import default_rows
from ldm_core.sampling.schedule import NoiseSchedule
from ldm_core.sampling.tiling import Tiling, Window, tiled

SIZES = 64  # whose blank image is kept
OnCall = Callable[[int], None]  # is given the rows of a U-Net call that has ended


@dataclass(kw_only=True)
class LatentDiffusion:
    """The frozen networks of one model on one device. Latents are float32 whatever the networks' dtype."""

    card: ModelCard
    unet: UNet
    autoencoder: Autoencoder
    condition: Condition
    schedule: NoiseSchedule
    low_res_schedule: NoiseSchedule | None  # of a model that sees the small image noised
    device: torch.device
    dtype: torch.dtype
    digest: str = ""  # of all weights and settings on which its images depend
    capture: Callable[[Program], Program] = as_it_is  # the same with one launch, where the device has such a thing
    load_in_float32: Callable[[], Autoencoder] | None = None  # the autoencoder, of a model in another dtype
    upcasts: bool = False  # the directory wants images decoded in float32, whatever the dtype (`force_upcast`)
    _blank: LRUCache[tuple[Tensor, Tensor]] = field(default_factory=LRUCache)

    @property
    def inpaints_by_concat(self) -> bool:
        """Whether the U-Net takes a mask and the masked image's latents behind the noisy latents."""
        return self.unet.config.in_channels == 2 * self.autoencoder.config.latent_channels + 1

    def default_rows(self) -> int:
        """Rows of one U-Net call where nothing is set."""
        return default_rows(self.unet, self.device, guided=self.card.default_guidance_scale > 1)

    @property
    def mask_style(self) -> MaskStyle:
        """How the U-Net sees a hole."""
        return self.condition.config if isinstance(self.condition, MaskedPicture) else MaskStyle()

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both scaled, of an image's latents: (1, 3, H, W) → 2 × (1, C, h, w)."""
        return self.autoencoder.moments(image.to(self.dtype))

    def decode(self, latents: Tensor, *, precise: bool = False) -> Tensor:
        """Latents to the image, about [-1, 1]: (1, C, h, w) → (1, 3, H, W) float32. `precise` computes in float32."""
        autoencoder, dtype = (self._precise_autoencoder, torch.float32) if precise else (self.autoencoder, self.dtype)
        return autoencoder.decode(latents.to(dtype)).float()

    @cached_property
    def _precise_autoencoder(self) -> Autoencoder:
        """Loaded when first used: most models never need it."""
        return self.autoencoder if self.load_in_float32 is None else self.load_in_float32()

    def blank_moments(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """`moments` of an all-grey image of that latent size, kept for the latest sizes."""
        factor = self.autoencoder.config.factor

        def computed() -> tuple[Tensor, Tensor]:
            return self.moments(torch.zeros(1, 3, height * factor, width * factor, device=self.device))

        return self._blank.get((height, width), computed, SIZES)

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        concat: Tensor | None = None,
        class_labels: Tensor | None = None,
        tiling: Tiling | None = None,
        on_call: OnCall | None = None,
    ) -> Tensor:
        """One U-Net call over B rows: (B, C, h, w), (B,), (B, L, D), (B, C', h, w), (B,) → (B, C, h, w) float32.

        With a tiling, one call for each of its windows, after each of which `on_call` is given 0.
        """
        if tiling is not None:

            def of_window(part: Tensor, place: Window) -> Tensor:
                cut = None if concat is None else concat[:, :, place[0], place[1]]
                out = self.predict(part, t, context, cut, class_labels)
                if on_call is not None:
                    on_call(0)
                return out

            return tiled(x, of_window, tiling)
        x = x if concat is None else torch.cat([x, concat], dim=1)
        context = None if context is None else context.to(self.dtype)
        return self.unet(x.to(self.dtype), t, context, class_labels).float()
