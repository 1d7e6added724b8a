"""CLIP's embeddings as condition: what retrieval-augmented diffusion models attend to."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from ldm_core.images.decoding import Images, central_square
from ldm_core.job_warning import JobWarning
from ldm_core.networks.conditioning import Condition, Tokenizer, tokenize, truncations
from ldm_core.params import GenerationParams

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images that CLIP was trained on, R, G, B
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipEmbedder(Condition):
    """A prompt, and images like the one wanted, to one CLIP embedding each (Blattmann et al. 2022, section 3).

    CLIP has one space for texts and images, so a model trained on the embeddings of retrieved images takes that of
    a prompt as well. All are L2-normalised; zeros stand for no condition.
    """

    def __init__(self, tokenizer: Tokenizer, clip: CLIPModel) -> None:
        super().__init__()
        self.tokenizer, self.clip = tokenizer, clip
        text, vision = clip.config.text_config, clip.config.vision_config
        self.max_tokens, self.side = int(text.max_position_embeddings), int(vision.image_size)  # type: ignore

    def context(self, params: GenerationParams, images: Images) -> Tensor:
        neighbors = [image for name, image in images.items() if name.startswith("neighbor")]
        told = [self.of_text(params.prompt)] if params.prompt or not neighbors else []
        return torch.stack([*told, *(self.of_image(image) for image in neighbors)], dim=1)

    def unconditional(self, params: GenerationParams, context: Tensor) -> Tensor:
        if not params.negative_prompt:
            return torch.zeros_like(context)
        return self.of_text(params.negative_prompt)[:, None].expand_as(context)

    def warnings(self, params: GenerationParams) -> tuple[JobWarning, ...]:
        return truncations(self.tokenizer, params, self.max_tokens)

    def of_text(self, prompt: str) -> Tensor:
        """(1, D)."""
        seen = self.clip.get_text_features(tokenize(self.tokenizer, [prompt], self.max_tokens).to(self.clip.device))
        return F.normalize(seen.pooler_output, dim=-1)

    def of_image(self, image: Image.Image) -> Tensor:
        """(1, D)."""
        square = central_square(image.convert("RGB"), self.side)
        levels = torch.from_numpy(np.asarray(square, dtype=np.float32)) / 255
        pixels = ((levels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(2, 0, 1)[None]
        seen = self.clip.get_image_features(pixels.to(self.clip.device, self.clip.dtype))
        return F.normalize(seen.pooler_output, dim=-1)
