"""One denoising step over samples of one model, each at a step, with a sampler and a guidance of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ldm_core.model import LatentDiffusion, OnCall
from ldm_core.row_counts import calls, row_counts
from ldm_core.sampling.sample import Sample
from ldm_core.sampling.samplers import columns_of, guide, update


@torch.inference_mode()
def step(
    model: LatentDiffusion, samples: Sequence[Sample], rows_per_call: int, on_call: OnCall | None = None
) -> list[bool]:
    """One denoising step of every sample, each at a step of its own, in U-Net calls of `rows_per_call` rows.

    The samples share a batch key. Larger calls are made where they give the same bytes (row_counts.py). Returns for
    each sample whether its latents are finite. `on_call` is given the number of rows of every call that has ended,
    and 0 after each window of one.
    When one raises, no sample has changed and no noise is spent, so that the same samples can be stepped again in
    smaller batches.
    """
    before = [(sample.noise, sample.noise.state()) for sample in samples if sample.draws]
    try:
        return _step(model, samples, rows_per_call, on_call)
    except Exception:
        for noise, state in before:
            noise.restore(state)
        raise


def _step(model: LatentDiffusion, samples: Sequence[Sample], rows_per_call: int, on_call: OnCall | None) -> list[bool]:
    x = torch.cat([sample.x for sample in samples])
    table = torch.stack([sample.plan.table[sample.step] for sample in samples]).to(model.device)
    t, alpha_bar, weights = columns_of(table)
    out = _predict_guided(model, x, t, samples, rows_per_call, on_call)
    plans = [sample.plan for sample in samples]
    history = torch.cat([sample.history for sample in samples]) if any(plan.remembers for plan in plans) else None
    noise = torch.cat([sample.draw_noise() for sample in samples]) if any(plan.draws_noise for plan in plans) else None
    kind, clip = model.schedule.prediction_type, model.schedule.clip_sample
    x, x0, history = update(x, out, history, noise, alpha_bar, weights, kind, clip)
    finite: list[bool] = x.isfinite().flatten(1).all(1).tolist()
    latents = [s.hold_known(each, s.step + 1) for s, each in zip(samples, x.split(1), strict=True)]
    histories = [sample.history for sample in samples] if history is None else history.split(1)
    for sample, *state in zip(samples, latents, x0.split(1), histories, strict=True):  # nothing below can fail
        sample.x, sample.x0, sample.history = state
        sample.step += 1
    return finite


def _predict_guided(
    model: LatentDiffusion, x: Tensor, t: Tensor, samples: Sequence[Sample], rows_per_call: int,
    on_call: OnCall | None,
) -> Tensor:  # fmt: skip
    """What the U-Net predicts for each sample, guided where the sample asks for it: (B, C, h, w)."""
    context, concat, labels = (
        _cat_optional([getattr(sample, name) for sample in samples]) for name in ("context", "concat", "class_labels")
    )
    sample_of_row = [i for i, sample in enumerate(samples) for _ in range(sample.rows)]
    tiling = samples[0].tiling
    larger = tiling is None and model.is_small
    outs = []
    for batch in calls(len(sample_of_row), row_counts(x, model.dtype, rows_per_call) if larger else (rows_per_call,)):
        (context_,) = _select_rows([context], batch)
        x_, t_, concat_, labels_ = _select_rows([x, t, concat, labels], [sample_of_row[i] for i in batch])
        assert x_ is not None and t_ is not None
        outs.append(model.predict(x_, t_, context_, concat_, labels_, tiling, on_call))
        if on_call is not None:
            on_call(len(batch))
    out = torch.cat(outs)[: len(sample_of_row)]
    if len(sample_of_row) == len(samples):
        return out
    last = len(sample_of_row) - 1
    conditional = [i for i in range(last + 1) if i == last or sample_of_row[i + 1] != sample_of_row[i]]
    # of an unguided sample its one row, which guidance then leaves as it is
    unconditional = [i for i in range(last + 1) if i == 0 or sample_of_row[i - 1] != sample_of_row[i]]
    scale = _constant(tuple(sample.guidance_scale for sample in samples), torch.float32, model.device)
    (without,), (with_it,) = _select_rows([out], unconditional), _select_rows([out], conditional)
    assert without is not None and with_it is not None
    return guide(without, with_it, scale)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # later callers may be outside inference mode
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(len(values),). Cached, so that the steps of a batch copy it to the device once."""
    return torch.tensor(values, dtype=dtype, device=device)


def _select_rows(parts: Sequence[Tensor | None], rows: list[int]) -> list[Tensor | None]:
    """These rows of each tensor that is not None; the tensor itself where the rows are all of its rows."""
    first = next((part for part in parts if part is not None), None)
    if first is None or rows == list(range(len(first))):
        return [*parts]
    index = _constant(tuple(rows), torch.int64, first.device)
    return [None if part is None else part.index_select(0, index) for part in parts]


def _cat_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenates tensors of which all or none are None: samples of one model have the same channels."""
    present = [part for part in parts if part is not None]
    assert len(present) in {0, len(parts)}, "rows of two shapes share a batch key"
    return torch.cat(present) if present else None
