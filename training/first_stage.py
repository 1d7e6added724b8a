"""Stage 1 (paper section 3.1): the autoencoder, on reconstruction and a light KL penalty."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_core.networks.autoencoder import Autoencoder
from training.corpus import to_unit_range
from training.loop import EMA, Loop, Session, Stateful, warmup_stable_decay
from training.recipe import Recipe


def train_autoencoder(recipe: Recipe, pictures: Tensor, session: Session) -> Autoencoder:
    """Trains on uint8 images (N, 3, H, W) that lie on the device, and returns the averaged weights.

    The result's latents have unit variance once scaled by its `scaling_factor` (paper appendix G).
    """
    stage, device = recipe.autoencoder_stage, pictures.device
    model = Autoencoder(recipe.autoencoder).to(device)
    _narrow_posterior(model)
    ema = EMA(model, stage.ema_decay)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_stable_decay(stage.steps))
    parts: dict[str, Stateful] = {"model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    loop = Loop("autoencoder", stage.steps, session, parts)
    for step in loop:
        generator = torch.Generator(device).manual_seed(step)
        index = torch.randint(len(pictures), (stage.batch,), generator=generator, device=device)
        x = to_unit_range(pictures[index])
        with torch.autocast(device.type, torch.bfloat16):
            loss, mse = _loss(model, x, recipe.kl_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(model)
        loop.report(loss=loss.detach(), psnr=-10 * torch.log10(mse.detach() / 4))
    model.load_state_dict(ema.weights())
    return _with_unit_variance(model, pictures[:2048])


@torch.no_grad()
def _narrow_posterior(model: Autoencoder) -> None:
    """Latents begin with little noise on them: under unit variance the decoder first learns to see through it."""
    assert model.quant_conv is not None and model.quant_conv.bias is not None
    model.quant_conv.bias[model.config.latent_channels :] = -6.0


def _loss(model: Autoencoder, x: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
    """L1, weighted where the image has local contrast so that small things count, on gradients too; MSE; KL."""
    mean, logvar = model.posterior(x)
    assert logvar is not None
    z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    y = model.decode(z * model.config.scaling_factor).float()
    contrast = (x - F.avg_pool2d(x, 9, 1, 4, count_include_pad=False)).abs().mean(1, keepdim=True)
    weight = 1 + 6 * F.avg_pool2d(contrast, 5, 1, 2)
    pixel = (weight * (y - x).abs()).mean()
    edges = sum(((y - x).diff(dim=d).abs()).mean() for d in (2, 3))
    mse = F.mse_loss(y, x)
    kl = 0.5 * (mean.float() ** 2 + logvar.float().exp() - 1 - logvar.float()).mean()
    return pixel + 0.5 * edges + 2 * mse + kl_weight * kl, mse


@torch.no_grad()
def _with_unit_variance(model: Autoencoder, pictures: Tensor) -> Autoencoder:
    """Folds a constant into the two 1x1 convolutions, so that latents times `scaling_factor` have unit variance."""
    mean = torch.cat([model.posterior(to_unit_range(batch))[0] for batch in pictures.split(64)])
    factor = 1 / (model.config.scaling_factor * mean.std())
    channels = model.config.latent_channels
    first, last = model.quant_conv, model.post_quant_conv
    assert first is not None and first.bias is not None and last is not None
    first.weight[:channels] *= factor
    first.bias[:channels] *= factor
    first.bias[channels:] += 2 * factor.log()
    last.weight /= factor
    return model.eval().requires_grad_(False)
