"""The condition encoders τθ (paper section 3.3): what a request says, as tokens to attend to or as channels.

Text, images, class and layout become a context (1, L, D) for cross-attention; a semantic map becomes channels
(1, C, h, w) that are concatenated to the latents. All of them encode one request at a time, so that its bytes do not
depend on others'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldm_core.errors import ModelError
from ldm_core.images.decoding import Images
from ldm_core.job_warning import JobWarning
from ldm_core.model_directory.config_reader import read_config
from ldm_core.networks.text_transformer import TextTransformer
from ldm_core.networks.unet_config import Count
from ldm_core.params import GenerationParams, LayoutObject

SHOWN = 40  # characters of what was cut


class Tokenizer(Protocol):
    """What transformers' tokenizers have in common."""

    model_max_length: int

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]: ...
    def decode(self, token_ids: list[int]) -> str: ...


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], length: int) -> Tensor:
    """(B, length) int64, on the CPU: padded or cut."""
    batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return torch.as_tensor(batch["input_ids"])


def truncations(tokenizer: Tokenizer, params: GenerationParams, length: int) -> tuple[JobWarning, ...]:
    """A warning for each prompt that is longer than `length` tokens, of which the first and the last are the ends."""
    found = []
    for field in ("prompt", "negative_prompt"):
        ids = [*tokenizer([getattr(params, field)], verbose=False)["input_ids"][0]]
        if len(ids) > length:
            begins = tokenizer.decode(ids[length - 1 : -1])[:SHOWN]
            detail = f"It has {len(ids) - 2} tokens, the model reads {length - 2}; cut from {begins!r} on."
            found.append(JobWarning("prompt_truncated", detail, f"/{field}"))
    return tuple(found)


class Condition(nn.Module):
    """What every condition encoder answers. This one is that of an unconditional model: nothing."""

    def context(self, params: GenerationParams, images: Images) -> Tensor | None:
        """What to attend to, (1, L, D)."""
        return None

    def unconditional(self, params: GenerationParams, context: Tensor) -> Tensor | None:
        """What takes the place of `context` in the unconditional rows of guidance; None: the model has no guidance."""
        return None

    def warnings(self, params: GenerationParams) -> tuple[JobWarning, ...]:
        """What of a request the encoder does not take in."""
        return ()


class TextEncoder(Condition):
    """Prompts to the last hidden state of a text transformer, padded or cut to its number of tokens."""

    def __init__(self, tokenizer: Tokenizer, transformer: nn.Module, max_tokens: int) -> None:
        super().__init__()
        self.tokenizer, self.transformer, self.max_tokens = tokenizer, transformer, max_tokens

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) int64, on the CPU."""
        return tokenize(self.tokenizer, prompts, self.max_tokens)

    def forward(self, token_ids: Tensor) -> Tensor:  # (B, L) → (B, L, D)
        out = self.transformer(token_ids)
        return out if isinstance(out, Tensor) else torch.as_tensor(out.last_hidden_state)

    def context(self, params: GenerationParams, images: Images) -> Tensor:
        return self.encode(params.prompt)

    def unconditional(self, params: GenerationParams, context: Tensor) -> Tensor:
        return self.encode(params.negative_prompt)

    def warnings(self, params: GenerationParams) -> tuple[JobWarning, ...]:
        return truncations(self.tokenizer, params, self.max_tokens)

    def encode(self, prompt: str) -> Tensor:
        """(1, L, D)."""
        states: Tensor = self(self.tokenize([prompt]).to(next(self.transformer.parameters()).device))
        return states


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEmbedderConfig:
    """`unconditional_class` stands for "no class" in guidance, as 1000 does for ImageNet's 1000 classes."""

    n_classes: Annotated[int, Field(ge=1, le=2**20)] = 1001
    embed_dim: Count = 512
    unconditional_class: Annotated[int, Field(ge=0)] | None = 1000

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "condition/config.json") -> ClassEmbedderConfig:
        """Raises ModelError, naming the key."""
        config = read_config(cls, data, path, fixed={})
        if config.unconditional_class is not None and config.unconditional_class >= config.n_classes:
            raise ModelError(path, f"unconditional_class = {config.unconditional_class} is not below n_classes")
        return config

    def to_json(self) -> dict[str, Any]:
        return {"_class_name": "ClassEmbedder", **asdict(self)}


class ClassEmbedder(Condition):
    """A class to one learned token: (B,) → (B, 1, D)."""

    def __init__(self, config: ClassEmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.n_classes, config.embed_dim)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding(labels)[:, None]

    def context(self, params: GenerationParams, images: Images) -> Tensor:
        assert params.class_id is not None  # the card has refused a request without one
        return self._encode(params.class_id)

    def unconditional(self, params: GenerationParams, context: Tensor) -> Tensor | None:
        return None if self.config.unconditional_class is None else self._encode(self.config.unconditional_class)

    def _encode(self, label: int) -> Tensor:
        return self(torch.tensor([label], device=self.embedding.weight.device))


class LayoutEncoder(Condition):
    """Objects and their boxes, written as tokens, through the BERT-like transformer.

    An object is three tokens: its label and the places of its box's corners on a grid; the last two of all are the
    corners of the whole image (taming-transformers' objects_bbox conditional builder, with encode_crop).
    """

    def __init__(self, transformer: TextTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens: Tensor) -> Tensor:  # (B, L) → (B, L, D)
        return self.transformer(tokens)

    def context(self, params: GenerationParams, images: Images) -> Tensor:
        return self(self.tokens(params.objects or ()).to(next(self.transformer.parameters()).device))

    def tokens(self, objects: Sequence[LayoutObject]) -> Tensor:
        """(1, L) int64, on the CPU."""
        config = self.transformer.config
        sections = math.isqrt(config.vocab_size)

        def place(x: float, y: float) -> int:
            return round(y * (sections - 1)) * sections + round(x * (sections - 1))

        told = [(thing.label, place(thing.x0, thing.y0), place(thing.x1, thing.y1)) for thing in objects]
        nothing = [(config.vocab_size - 1,) * 3] * ((config.max_position_embeddings - 2) // 3 - len(told))
        return torch.tensor([[*(t for triple in [*told, *nothing] for t in triple), place(0, 0), place(1, 1)]])


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialRescalerConfig:
    n_stages: Annotated[int, Field(ge=0, le=10)] = 2
    in_channels: Count = 182
    out_channels: Count = 3

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "condition/config.json") -> SpatialRescalerConfig:
        return read_config(cls, data, path, fixed={})

    def to_json(self) -> dict[str, Any]:
        return {"_class_name": "SpatialRescaler", **asdict(self)}


class SpatialRescaler(Condition):
    """A semantic map to channels at latent size: halved bilinearly `n_stages` times, then a 1x1 convolution."""

    def __init__(self, config: SpatialRescalerConfig) -> None:
        super().__init__()
        self.config = config
        self.channel_mapper = nn.Conv2d(config.in_channels, config.out_channels, 1, bias=False)

    def forward(self, label_map: Tensor) -> Tensor:
        """Label ids (B, H, W) → (B, out_channels, H / 2ⁿ, W / 2ⁿ)."""
        x = (
            F.one_hot(label_map.long(), self.config.in_channels)
            .permute(0, 3, 1, 2)
            .to(self.channel_mapper.weight.dtype)
        )
        for _ in range(self.config.n_stages):
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        return self.channel_mapper(x)
