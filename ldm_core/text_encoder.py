"""The condition encoder τθ for text: CLIP's tokenizer and text transformer, from the transformers library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer


class TextEncoder(nn.Module):
    """Prompts to the last hidden state of a CLIP text transformer, padded or cut to the tokenizer's length."""

    def __init__(self, tokenizer: CLIPTokenizer, transformer: CLIPTextModel) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.transformer = transformer

    @property
    def max_tokens(self) -> int:
        return int(self.tokenizer.model_max_length)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(B, L) int64, on the CPU."""
        batch = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_tokens, truncation=True, return_tensors="pt"
        )
        return torch.as_tensor(batch["input_ids"])

    def forward(self, token_ids: Tensor) -> Tensor:  # (B, L) → (B, L, D)
        return torch.as_tensor(self.transformer(token_ids).last_hidden_state)

    def encode(self, prompt: str) -> Tensor:
        """One prompt → (1, L, D), always alone, so that its bytes do not depend on which others came with it."""
        device = next(self.transformer.parameters()).device
        return self(self.tokenize([prompt]).to(device))
