"""The BERT-like transformer that the paper trains with its text and layout models (diffusers' LDMBertModel)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldm_core.model_directory.config_reader import read_config
from ldm_core.networks.unet_config import Count

FIXED = {
    "activation_function": ("gelu",),
    "scale_embedding": (False,),
    "num_hidden_layers": None,
    "encoder_layerdrop": (0.0,),
    "classifier_dropout": (0.0,),
    # training, and what transformers writes into every configuration
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "init_std", "use_cache"), None),
    **dict.fromkeys(("architectures", "model_type", "torch_dtype", "dtype", "transformers_version"), None),
    "pad_token_id": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTransformerConfig:
    """The fields of diffusers' `bert/config.json` that this network honours."""

    vocab_size: Annotated[int, Field(ge=2, le=2**20)] = 30522
    max_position_embeddings: Annotated[int, Field(ge=2, le=2**16)] = 77
    encoder_layers: Annotated[int, Field(ge=1, le=256)] = 32
    encoder_ffn_dim: Count = 5120
    encoder_attention_heads: Annotated[int, Field(ge=1, le=256)] = 8
    head_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    d_model: Count = 1280

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "bert/config.json") -> TextTransformerConfig:
        """Raises ModelError, naming the key, for what this network does not do."""
        return read_config(cls, data, path, fixed=FIXED)

    def to_json(self) -> dict[str, Any]:
        return {"architectures": ["LDMBertModel"], "model_type": "ldmbert", **asdict(self)}


class SelfAttention(nn.Module):
    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        inner = config.encoder_attention_heads * config.head_dim
        self.heads = config.encoder_attention_heads
        self.q_proj = nn.Linear(config.d_model, inner, bias=False)
        self.k_proj = nn.Linear(config.d_model, inner, bias=False)
        self.v_proj = nn.Linear(config.d_model, inner, bias=False)
        self.out_proj = nn.Linear(inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in projections)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention over all tokens, padding included, then a feed-forward layer; each with pre-norm and residual."""

    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Encoder(nn.Module):
    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, token_ids: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        x = self.embed_tokens(token_ids) + self.embed_positions(positions)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class TextTransformer(nn.Module):
    """Token ids (B, L) → (B, L, d_model). The head that predicts words is of no use here and is not loaded."""

    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.model(token_ids)
