"""Stage 2 (paper section 3.2): U-Nets on the frozen latents, E‖ε − εθ(z_t, t, τθ(y))‖²."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel

from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.unet import UNet
from ldm_core.sampling.schedule import NoiseSchedule
from training.corpus import Corpus, encode, to_unit_range
from training.loop import EMA, Guard, Loop, Session, Stateful, warmup_stable_decay
from training.masks import random_masks
from training.recipe import Recipe, Stage

logger = logging.getLogger(__name__)

LossOf = Callable[[Tensor, torch.Generator], Tensor]


def train_unet(
    recipe: Recipe, corpus: Corpus, autoencoder: Autoencoder, text: CLIPTextModel, schedule: NoiseSchedule,
    empty: Tensor, session: Session,
) -> UNet:  # fmt: skip
    """Text-to-image and inpainting in one U-Net: `inpaint_share` of the samples show what is outside a random mask,
    the others a mask over everything. `empty` (L,) is the empty caption.
    """
    device = corpus.pictures.device
    alpha_bar = schedule.alpha_bar.to(device)
    unet = UNet(recipe.unet).to(device)
    grey = encode(autoencoder, torch.zeros_like(corpus.pictures[:1], dtype=torch.float32))

    def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
        z = corpus.draw_latents(index, generator)
        x, t, noise = _noised(z, schedule, generator)
        context = _context(text, corpus.draw_tokens(index, generator), empty, recipe.caption_dropout, generator)
        holes = int(len(index) * recipe.inpaint_share)
        extra = _hole_channels(autoencoder, to_unit_range(corpus.pictures[index[:holes]]), generator)
        blank = _sampled(grey, (len(index) - holes, *z.shape[1:]), generator)
        extra = torch.cat([extra, torch.cat([torch.ones_like(blank[:, :1]), blank], dim=1)])
        with torch.autocast(device.type, torch.bfloat16):
            eps = unet(torch.cat([x, extra], dim=1), t, context).float()
        snr = alpha_bar[t] / (1 - alpha_bar[t])
        weight = snr.clamp(max=recipe.snr_gamma) / snr  # Hang et al. 2023, min-SNR-γ for ε
        return (weight * F.mse_loss(eps, noise, reduction="none").mean((1, 2, 3))).mean()

    _optimise("unet", recipe.unet_stage, unet, len(corpus), loss_of, session)
    return unet


def train_superres(
    recipe: Recipe, corpus: Corpus, text: CLIPTextModel, schedule: NoiseSchedule, low_res_schedule: NoiseSchedule,
    empty: Tensor, session: Session,
) -> UNet:  # fmt: skip
    """x4 super-resolution: the small image, itself noised (paper section 4.4), behind the noisy latents.

    Predicts v (Salimans & Ho 2022) as the published x4 upscaler does: at high noise that is the image itself,
    which is what PSNR after few steps rests on.
    """
    device = corpus.pictures.device
    unet = UNet(recipe.superres).to(device)
    alpha_bar = schedule.alpha_bar.to(device)

    def loss_of(index: Tensor, generator: torch.Generator) -> Tensor:
        x, t, noise = _noised(z := corpus.draw_latents(index, generator), schedule, generator)
        small = _downscaled(corpus.pictures[index], generator)
        level = torch.randint(recipe.trained_noise_levels, index.shape, generator=generator, device=device)
        level = level * (torch.rand(index.shape, generator=generator, device=device) < 0.5)
        blur = torch.randn(small.shape, generator=generator, device=device)
        small = low_res_schedule.add_noise(small, blur, level)
        context = _context(text, corpus.draw_tokens(index, generator), empty, 0.5, generator)
        with torch.autocast(device.type, torch.bfloat16):
            v = unet(torch.cat([x, small], dim=1), t, context, level).float()
        a = alpha_bar[t].view(-1, 1, 1, 1)
        return F.mse_loss(v, a.sqrt() * noise - (1 - a).sqrt() * z)

    _optimise("superres", recipe.superres_stage, unet, len(corpus), loss_of, session)
    return unet


def _optimise(name: str, stage: Stage, unet: UNet, pictures: int, loss_of: LossOf, session: Session) -> None:
    """Runs the stage and leaves the averaged weights in `unet`."""
    device = next(unet.parameters()).device
    ema = EMA(unet, stage.ema_decay)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=stage.learning_rate, weight_decay=0.01, fused=True)
    factor, guard = warmup_stable_decay(stage.steps), Guard()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step) * guard.scale)
    parts: dict[str, Stateful] = {
        "model": unet, "ema": ema, "optimizer": optimizer, "schedule": schedule, "guard": guard,
    }  # fmt: skip
    for step in (loop := Loop(name, stage.steps, session, parts)):
        generator = torch.Generator(device).manual_seed(step)
        index = torch.randint(pictures, (stage.batch,), generator=generator, device=device)
        loss = loss_of(index, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(unet)
        loop.report(loss=loss.detach())
        if guard.diverged(loss.detach()):
            logger.warning("%s  step %d  diverged: back to the averaged weights, with half the step size", name, step)
            unet.load_state_dict(ema.weights())
            optimizer.state.clear()
    unet.load_state_dict(ema.weights())
    unet.eval().requires_grad_(False)


def _noised(z: Tensor, schedule: NoiseSchedule, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.randint(len(schedule), (len(z),), generator=generator, device=z.device)
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    return schedule.add_noise(z, noise, t), t, noise


@torch.no_grad()
def _context(text: CLIPTextModel, tokens: Tensor, empty: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """τθ(y) (B, L, D), with a share of the captions emptied for classifier-free guidance."""
    drop = torch.rand(len(tokens), generator=generator, device=tokens.device) < dropout
    tokens = torch.where(drop[:, None], empty.to(tokens), tokens)
    return torch.as_tensor(text(tokens).last_hidden_state)


@torch.no_grad()
def _hole_channels(autoencoder: Autoencoder, x: Tensor, generator: torch.Generator) -> Tensor:
    """Mask and latents of the masked image (B, 1 + C, h, w), as the inpainting task makes them."""
    mask = random_masks(len(x), x.shape[-1], generator, x.device)
    mean, std = encode(autoencoder, x * (1 - mask))
    small_mask = F.interpolate(mask, size=mean.shape[2:])
    return torch.cat([small_mask, _sampled((mean, std), mean.shape, generator)], dim=1)


def _sampled(moments: tuple[Tensor, Tensor], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    mean, std = moments
    return mean + std * torch.randn(shape, generator=generator, device=mean.device)


def _downscaled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter of the side, by area or bicubic at random, rounded to 8 bits as a client's image is."""
    mode = "area" if torch.rand((), generator=generator, device=pictures.device) < 0.5 else "bicubic"
    small = F.interpolate(pictures.float(), scale_factor=0.25, mode=mode, antialias=mode == "bicubic")
    return to_unit_range(small.round().clamp(0, 255))
