"""What each task adds around the same denoising loop: first latents, concatenated channels, context, composition.

Noise is drawn in the order in which diffusers' pipeline of the task draws it, so that the same seed gives the image
that diffusers gives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm_core.errors import NonFiniteImage
from ldm_core.images.decoding import Images
from ldm_core.images.tensors import Known, image_tensor, known_region, label_tensor, padded
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams
from ldm_core.sampling.noise import NoiseSource
from ldm_core.sampling.sample import Sample
from ldm_core.sampling.samplers import make_plan
from ldm_core.sampling.schedule import noised
from ldm_core.sampling.tiling import Window, covering, tiled

logger = logging.getLogger(__name__)

PREVIEW_LATENTS = 32  # a side: quick to decode, whatever the image's size


def begin(model: LatentDiffusion, params: GenerationParams, index: int, images: Images) -> Sample:
    """Everything before the first step for image `index` of a job. Raises RequestError."""
    model.card.check(params)
    image, mask = images.get("image"), images.get("mask")
    noise = NoiseSource(params.image_seed(index))
    factor, multiple = model.autoencoder.config.factor, model.card.size_multiple
    width, height = (-(-side // multiple) * multiple for side in (params.width, params.height))
    shape = (1, model.autoencoder.config.latent_channels, height // factor, width // factor)
    plan = make_plan(model.schedule, params.sampler, params.steps, params.eta, _first_step(params), params.schedule)
    sample = Sample(
        x=torch.empty(shape, device=model.device),
        plan=plan,
        noise=noise,
        size=(params.width, params.height),
        context=_context(model, params, images),
        guidance_scale=params.guidance_scale,
        guided_steps=params.guided_steps(len(plan)),
    )
    if params.task == "superres":
        scale = model.card.scale
        _begin_superres(model, sample, padded(image_tensor(image, "image"), width // scale, height // scale))
    elif params.task == "inpaint":
        sample.known_image = known_region(image, mask, width, height, model.device)
        _begin_inpaint(model, sample)
    elif params.task == "semantic2img":
        sample.concat = model.condition(label_tensor(image, width, height).to(model.device))
        sample.x = noise.draw(shape, model.device) * sample.plan.start
    elif params.strength is not None:
        _begin_img2img(model, sample, padded(image_tensor(image, "image"), width, height))
    else:
        sample.x = noise.draw(shape, model.device) * sample.plan.start
        if model.inpaints_by_concat:  # an inpainting U-Net draws from text with a full mask over a blank image
            sample.concat = inpainting_channels(model, None, shape, noise)
    return sample


def decode(model: LatentDiffusion, sample: Sample, progress: Callable[[], None] | None = None) -> Tensor:
    """The finished image in [0, 1], (3, H, W): decoded, what was known put back, cropped to the size asked for.

    Always one image at a time, so that its bytes do not depend on others'. Calls `progress` after every window.
    """
    return _decoded(model, sample, progress, precise=model.upcasts).clamp(0, 1)


def finish(model: LatentDiffusion, sample: Sample, progress: Callable[[], None] | None = None) -> Image.Image:
    """The finished image in 8 bits; `progress` is that of `decode`. Raises NonFiniteImage."""
    return _finite(model, lambda precise: _decoded(model, sample, progress, precise=precise))


def preview(model: LatentDiffusion, x0: Tensor) -> Image.Image:
    """What latents foreseen in the middle of the steps look like, decoded from at most `PREVIEW_LATENTS` a side."""
    height, width = x0.shape[2:]
    shrink = max(1.0, max(height, width) / PREVIEW_LATENTS)
    small = F.interpolate(x0, (max(1, int(height / shrink)), max(1, int(width / shrink))), mode="area")
    return _finite(model, lambda precise: model.decode(small, precise=precise)[0] / 2 + 0.5)


def _decoded(model: LatentDiffusion, sample: Sample, progress: Callable[[], None] | None, *, precise: bool) -> Tensor:
    """The finished image, (3, H, W), with levels beyond [0, 1] where the decoder went there."""

    def decoded(part: Tensor, _: Window | None = None) -> Tensor:
        image = model.decode(part, precise=precise)
        if progress is not None:
            progress()
        return image

    x, factor = sample.x, model.autoencoder.config.factor
    tiling = covering(x.shape[2], x.shape[3], model.card.tile // factor)
    image = decoded(x) if tiling is None else tiled(x, decoded, tiling, factor)
    if sample.known_image is not None:
        original, mask = sample.known_image
        image = torch.where(mask > 0, image, original)
    width, height = sample.size
    return image[0, :, :height, :width] / 2 + 0.5


def _finite(model: LatentDiffusion, draw: Callable[[bool], Tensor]) -> Image.Image:
    """What `draw` gives, in 8 bits; drawn again in float32 where half precision overflows. Raises NonFiniteImage."""
    precise = model.upcasts
    image = _in_8_bits(draw(precise))
    if image is None and not precise and model.dtype != torch.float32:
        logger.warning("model %s: a decoded image is not finite in %s; decoding in float32", model.card.id, model.dtype)
        image = _in_8_bits(draw(True))
    if image is None:
        raise NonFiniteImage("The decoded image is infinite or not a number.")
    return image


def _in_8_bits(image: Tensor) -> Image.Image | None:
    """An image (3, H, W) with levels from 0 to 1; None where one of them is not finite.

    The flag travels behind the levels, in one copy to the host.
    """
    height, width = image.shape[1:]
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    finite = image.isfinite().all().to(torch.uint8)
    sent = torch.cat([levels.flatten(), finite[None]]).cpu().numpy()
    return Image.fromarray(sent[:-1].reshape(height, width, 3)) if sent[-1] else None


def _context(model: LatentDiffusion, params: GenerationParams, images: Images) -> Tensor | None:
    cond = model.condition.context(params, images)
    if params.guidance_scale == 1.0:
        return cond
    assert cond is not None  # the card has refused guidance where there is none
    uncond = model.condition.unconditional(params, cond)
    assert uncond is not None
    return torch.cat([uncond, cond])


def _first_step(params: GenerationParams) -> int:
    """Image to image leaves out the first steps and begins with an image (SDEdit, Meng et al. 2022)."""
    if params.strength is None:
        return 0
    return params.steps - max(1, min(int(params.steps * params.strength), params.steps))


def _begin_superres(model: LatentDiffusion, sample: Sample, small: Tensor) -> None:
    """Super-resolution: the small image behind the latents, noised where the model was trained so (section 4.4)."""
    small = small.to(model.device)
    if model.low_res_schedule is not None:
        level = torch.tensor([model.card.noise_level])
        blur = sample.noise.draw(tuple(small.shape), model.device)
        small = model.low_res_schedule.add_noise(small, blur, level.to(model.device))
        sample.class_labels = level.to(model.device) if model.unet.config.num_class_embeds else None
    sample.concat = small
    sample.tiling = covering(small.shape[2], small.shape[3], model.card.tile // model.card.scale)
    sample.x = sample.noise.draw(tuple(sample.x.shape), model.device) * sample.plan.start


def inpainting_channels(
    model: LatentDiffusion, known: Known | None, shape: tuple[int, ...], noise: NoiseSource
) -> Tensor:
    """Mask and latents of the masked image, (1, 1 + C, h, w); without an image, a mask all over a blank one."""
    drawn = noise.draw(shape, model.device).to(model.dtype)
    style = model.mask_style
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


def _begin_inpaint(model: LatentDiffusion, sample: Sample) -> None:
    """Inpainting by mask channels, or with known latents that are noised and pasted in at each step."""
    shape = tuple(sample.x.shape)
    assert sample.known_image is not None
    if model.inpaints_by_concat:
        sample.x = sample.noise.draw(shape, model.device) * sample.plan.start
        sample.concat = inpainting_channels(model, sample.known_image, shape, sample.noise)
        return
    original, mask = sample.known_image
    unknown = F.max_pool2d(mask, model.autoencoder.config.factor)
    mean, std = model.moments(original)
    latents = (mean + std * sample.noise.draw(shape, model.device)).float()
    sample.known_latents = latents, 1 - unknown
    sample.x = sample.hold_known(sample.noise.draw(shape, model.device) * sample.plan.start, 0)


def _begin_img2img(model: LatentDiffusion, sample: Sample, image: Tensor) -> None:
    """Image to image: the image's latents, noised to where the plan begins."""
    shape = tuple(sample.x.shape)
    mean, std = model.moments(image.to(model.device))
    latents = (mean + std * sample.noise.draw(shape, model.device)).float()
    level = sample.plan.alpha_bar[:1].to(model.device)
    sample.x = noised(latents, sample.noise.draw(shape, model.device), level)
    if model.inpaints_by_concat:
        sample.concat = inpainting_channels(model, None, shape, sample.noise)
