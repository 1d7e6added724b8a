"""The readable loop that samples from a model.

The worker's engine runs the same `tasks.begin`, `Denoiser.step` and `tasks.finish` for many jobs at once; `generate` is
the reference that the engine must equal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams


@torch.inference_mode()
def generate(
    model: LatentDiffusion,
    params: GenerationParams,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    *,
    neighbors: Sequence[Image.Image] = (),
    rows: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """Runs one job alone and returns its `params.n` images.

    `neighbors` are what a retrieval-augmented model is given to look at. `rows` is the number of rows of every
    U-Net call (ARCHITECTURE.md, "Same bytes"). `progress` is called with (steps done, steps). Raises
    RequestError for what the model does not take.
    """
    given = {"image": image, "mask": mask, **{f"neighbor{i}": each for i, each in enumerate(neighbors)}}
    inputs = {name: each for name, each in given.items() if each is not None}
    denoiser, images = Denoiser(model, rows), []
    for index in range(params.n):
        sample = tasks.begin(model, params, index, inputs)
        while not sample.done:
            denoiser.step([sample])
            if progress is not None:
                progress(index * params.steps + sample.steps_done(params.steps), params.n * params.steps)
        images.append(tasks.finish(model, sample))
    return images
