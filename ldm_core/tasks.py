"""What each task adds around the same denoising loop: first latents, concatenated channels, context, composition.

Noise is drawn from a CPU generator seeded with the picture's own seed, in the order in which diffusers' pipeline of
the task draws it, so that the same seed gives the picture that diffusers gives.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm_core.errors import InvalidImage
from ldm_core.params import GenerationParams
from ldm_core.samplers import MEMORY, Plan, make_plan

if TYPE_CHECKING:
    from ldm_core.model import LatentDiffusion


@dataclass(slots=True)
class Sample:
    """One picture being denoised; all that is constant over its steps is already computed.

    Shapes: x (1, C, h, w) float32; past (1, 3, C, h, w), what its sampler remembers of earlier steps; context
    (R, L, D) with R = 2, unconditional first, when guided and 1 otherwise; concat (1, C', h, w), the channels that go
    behind x; class_labels (1,).
    """

    x: Tensor
    plan: Plan
    context: Tensor
    guidance_scale: float
    generator: torch.Generator
    size: tuple[int, int]
    concat: Tensor | None = None
    class_labels: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None  # original picture (1, 3, H, W) in [-1, 1], mask (1, 1, H, W), 1 = new
    x0: Tensor | None = None  # the picture as the last step predicted it
    past: Tensor = field(init=False)
    step: int = 0

    def __post_init__(self) -> None:
        self.past = self.x.new_zeros(1, MEMORY, *self.x.shape[1:])

    @property
    def batch_key(self) -> Hashable:
        """Rows share a U-Net call exactly when their keys are equal."""
        return tuple(self.x.shape[1:]), tuple(self.context.shape[1:])

    @property
    def done(self) -> bool:
        return self.step >= len(self.plan)

    def draw_noise(self) -> Tensor:
        """The standard normal noise of this step, zeros where the sampler adds none."""
        if not self.plan.draws_noise:
            return torch.zeros_like(self.x)
        return _randn(tuple(self.x.shape), self.generator, self.x.device)


def begin(
    model: LatentDiffusion, params: GenerationParams, index: int, image: Image.Image | None, mask: Image.Image | None
) -> Sample:
    """Everything before the first step for picture `index` of a job. Raises InvalidImage or UnsupportedTask."""
    model.card.check(params)
    generator = torch.Generator().manual_seed(params.image_seed(index))
    factor = model.autoencoder.config.factor
    multiple = model.card.size_multiple
    width, height = (-(-side // multiple) * multiple for side in (params.width, params.height))
    shape = (1, model.autoencoder.config.latent_channels, height // factor, width // factor)
    known = concat = class_labels = None

    if params.task == "superres":
        small = _padded(_picture(image, "image"), width // model.card.scale, height // model.card.scale)
        small = small.to(model.device)
        level = torch.tensor([model.card.noise_level])
        blur = _randn(tuple(small.shape), generator, model.device)
        concat = model.low_res_schedule.add_noise(small, blur, level.to(model.device))
        class_labels = level.to(model.device) if model.unet.config.num_class_embeds else None
        x = _randn(shape, generator, model.device)
    else:
        x = _randn(shape, generator, model.device)
        if params.task == "inpaint":
            known = _known(image, mask, width, height, model.device)
        if model.inpaints_by_concat:
            concat = _inpainting_channels(model, known, shape, generator)

    return Sample(
        x=x,
        plan=make_plan(model.schedule, params.sampler, params.steps, params.eta),
        context=_context(model, params),
        guidance_scale=params.guidance_scale,
        generator=generator,
        size=(params.width, params.height),
        concat=concat,
        class_labels=class_labels,
        known=known,
    )


def finish(model: LatentDiffusion, sample: Sample) -> Image.Image:
    """Decodes the latents, puts back what was known, crops to the size asked for. Always one picture at a time."""
    picture = model.autoencoder.decode(sample.x.to(model.dtype)).float()
    if sample.known is not None:
        original, mask = sample.known
        picture = torch.where(mask > 0, picture, original)
    width, height = sample.size
    levels = ((picture[0, :, :height, :width] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _context(model: LatentDiffusion, params: GenerationParams) -> Tensor:
    cond = model.encode_prompt(params.prompt)
    if params.guidance_scale == 1.0:
        return cond
    return torch.cat([model.encode_prompt(params.negative_prompt), cond])


def _inpainting_channels(
    model: LatentDiffusion, known: tuple[Tensor, Tensor] | None, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Mask and encoded masked picture (1, 1 + C, h, w); text-to-image is a mask over all of a blank picture."""
    noise = _randn(shape, generator, model.device).to(model.dtype)
    if known is None:
        mean, std = model.blank_moments(shape[2], shape[3])
        mask = torch.ones(1, 1, *shape[2:], device=model.device)
    else:
        original, full_mask = known
        mean, std = model.moments(original * (full_mask < 0.5))
        mask = F.interpolate(full_mask, size=shape[2:])
    return torch.cat([mask, (mean + std * noise).float()], dim=1)


def _known(
    image: Image.Image | None, mask: Image.Image | None, width: int, height: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    if mask is None:
        raise InvalidImage("mask", "is required")
    picture = _picture(image, "image")
    if mask.size != (picture.shape[3], picture.shape[2]):
        raise InvalidImage("mask", f"is {mask.size}, the image is {(picture.shape[3], picture.shape[2])}")
    white = torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32))[None, None]
    return _padded(picture, width, height).to(device), _padded((white >= 127.5).float(), width, height).to(device)


def _picture(image: Image.Image | None, field: str) -> Tensor:
    """A PIL picture as (1, 3, H, W) in [-1, 1]."""
    if image is None:
        raise InvalidImage(field, "is required")
    levels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32))
    return (levels / 127.5 - 1.0).permute(2, 0, 1)[None]


def _padded(x: Tensor, width: int, height: int) -> Tensor:
    """Repeats the last column and row up to the size that the networks need."""
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")


def _randn(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=generator).to(device)
