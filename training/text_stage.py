"""The text encoder learns to tell a scene's attributes from its caption, and is frozen from then on.

Trained only through the U-Net it is followed weakly for tens of thousands of samples; so made, at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.corpus import Corpus
from training.loop import EMA, Loop, Session, warmup_stable_decay
from training.recipe import Recipe


def build_text_transformer(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            projection_dim=recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_text(recipe: Recipe, corpus: Corpus, tokenizer: CLIPTokenizer, session: Session) -> CLIPTextModel:
    """Trains on the captions' stated attributes and returns the averaged weights."""
    stage, device = recipe.text_stage, corpus.pictures.device
    transformer = build_text_transformer(recipe, tokenizer)
    transformer.to(device)  # type: ignore[arg-type]
    counts = [int(column.max()) + 1 for column in corpus.labels.T]
    heads = nn.Linear(recipe.text_width, sum(counts)).to(device)
    both = nn.ModuleList([transformer, heads])
    ema = EMA(both, stage.ema_decay)
    optimizer = torch.optim.AdamW(both.parameters(), lr=stage.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_stable_decay(stage.steps))
    loop = Loop(
        "text", stage.steps, session, {"model": both, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    )  # fmt: skip
    for step in loop:
        generator = torch.Generator(device).manual_seed(step)
        index = torch.randint(len(corpus), (stage.batch,), generator=generator, device=device)
        which = torch.randint(corpus.tokens.shape[1], (stage.batch,), generator=generator, device=device)
        tokens, stated = corpus.tokens[index, which].long(), corpus.stated[index, which]
        end = (tokens == tokenizer.eos_token_id).int().argmax(1)
        hidden = transformer(tokens).last_hidden_state[torch.arange(len(tokens), device=device), end]
        loss, right = _loss(heads(hidden), corpus.labels[index], stated, counts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(both)
        loop.report(loss=loss.detach(), right=right)
    both.load_state_dict(ema.weights(), strict=False)
    transformer.eval().requires_grad_(False)
    return transformer


def _loss(logits: Tensor, labels: Tensor, stated: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the attributes that each caption states, and how many of them are right."""
    loss, right = logits.new_zeros(()), logits.new_zeros(())
    for column, head in enumerate(logits.split(counts, dim=1)):
        said, label = stated[:, column].float(), labels[:, column].long()
        loss = loss + (F.cross_entropy(head, label, reduction="none") * said).sum()
        right = right + ((head.argmax(1) == label) * said).sum()
    total = stated.sum().clamp(min=1)
    return loss / total, (right / total).detach()
