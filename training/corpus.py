"""The training images and captions as tensors on the training device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from ldm_core.networks.autoencoder import Autoencoder
from training.scenes import dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """N images and their details (N, 3, H, W) uint8; tokens (N, K, L), K captions each; labels (N, A) of the scene's
    attributes; stated (N, K, A), whether caption k says attribute a; latents' mean and deviation (N, C, h, w), scaled,
    or None.
    """

    pictures: Tensor
    details: Tensor
    tokens: Tensor
    labels: Tensor
    stated: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def with_details(self) -> Corpus:
        """2 N images: the details follow the whole ones, under the same captions."""
        twice = {name: torch.cat([getattr(self, name)] * 2) for name in ("tokens", "labels", "stated")}
        return replace(self, pictures=torch.cat([self.pictures, self.details]), **twice)

    def draw_tokens(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """One of its captions for each image in `index`: (B, L) int64."""
        which = torch.randint(self.tokens.shape[1], index.shape, generator=generator, device=index.device)
        return self.tokens[index, which].long()

    def draw_latents(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Latents drawn from the autoencoder's posterior: (B, C, h, w) float32."""
        assert self.mean is not None and self.std is not None
        mean = self.mean[index].float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + self.std[index].float() * noise


def load_corpus(directory: Path, tokenizer: CLIPTokenizer, device: torch.device) -> Corpus:
    """The whole images that `dataset.draw` drew."""
    data = dataset.load(directory)
    flat = [text for captions in data.captions for text in captions]
    ids = tokenizer(flat, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    return Corpus(
        pictures=_planes(data.pictures).to(device),
        details=_planes(data.details).to(device),
        tokens=torch.from_numpy(ids.astype(np.int16)).view(len(data.captions), -1, ids.shape[1]).to(device),
        labels=torch.from_numpy(np.array(data.labels)).to(device),
        stated=torch.from_numpy(np.array(data.stated)).to(device),
    )


def _planes(pictures: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) → (N, 3, H, W)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def with_latents(corpus: Corpus, autoencoder: Autoencoder, cache: Path, batch: int = 128) -> Corpus:
    """Encodes every image once (the latents are frozen from here on) and keeps the result in `cache`."""
    device = corpus.pictures.device
    if cache.exists():
        saved = torch.load(cache, map_location=device, weights_only=True)
        return replace(corpus, mean=saved["mean"], std=saved["std"])
    means, stds = [], []
    for pictures in corpus.pictures.split(batch):
        mean, std = encode(autoencoder, to_unit_range(pictures))
        means.append(mean.half())
        stds.append(std.half())
    saved = {"mean": torch.cat(means), "std": torch.cat(stds)}
    torch.save(saved, cache)
    return replace(corpus, **saved)


def encode(autoencoder: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled mean and deviation of the latents of images in [-1, 1]."""
    with torch.autocast(x.device.type, torch.bfloat16):
        mean, std = autoencoder.moments(x)
    return mean.float(), std.float()


def to_unit_range(pictures: Tensor) -> Tensor:
    """uint8 → float in [-1, 1]."""
    return pictures.float() / 127.5 - 1
