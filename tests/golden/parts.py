"""Quantities that more than one group has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm_core.images.tensors import Known, known_region
from ldm_core.networks.autoencoder import Codebook
from ldm_core.sampling.noise import NoiseSource
from ldm_core.tasks import inpainting_channels
from tests.golden.case import Case

Quantities = Iterator[tuple[str, Tensor]]


def quantised(name: str, codebook: Codebook, z: Tensor) -> Quantities:
    """The indices, and by how much the nearest entry is nearer than the second."""
    best = codebook.distances(z).topk(2, largest=False).values
    yield name, codebook.indices(z).int()
    yield f"{name}_margin", best[..., 1] - best[..., 0]


def hole(case: Case) -> Known:
    """The case's image and mask, read as a request's are."""
    image, mask = (Image.open(case.folder / f"input{part}.png") for part in ("", "_mask"))
    return known_region(image, mask, *image.size, torch.device("cpu"))


def hole_channels(case: Case) -> Tensor:
    """The conditioning of an inpainting run."""
    known = hole(case)
    assert np.allclose(known[0], case["inpaint/image"], atol=1e-6)
    assert torch.equal(known[1] * 2 - 1, case["inpaint/mask"])
    shape = (1, case.autoencoder.config.latent_channels, *case["x_T"].shape[2:])
    return inpainting_channels(case.model, known, shape, NoiseSource(0))
