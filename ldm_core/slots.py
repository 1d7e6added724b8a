"""The samples of one step in tensors whose memory stays where it is, and the step itself as a program over them.

The program reads and writes these tensors alone and asks the host for nothing, so a GPU repeats all of it with one
launch (acceleration/graph.py). While the samples stay the same, nothing is copied in or out but the noise of samplers
that add some. Legend: N slots, one for each sample; rows are those of U-Net calls, one or two for each sample.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ldm_core.device import Pace, Program, host_buffer
from ldm_core.model import LatentDiffusion, OnCall
from ldm_core.sampling.plan import MEMORY, PLAN, columns_of, guide, update
from ldm_core.sampling.sample import HELD, KNOWN, LEVEL, SAMPLER, Sample
from ldm_core.sampling.schedule import noised


def nobody() -> None:
    """What is in a free slot."""


class Slots:
    """Room for `count` samples that share a batch key with `like`. For one thread at a time."""

    def __init__(
        self, model: LatentDiffusion, capture: Callable[[Program], Program], like: Sample, count: int
    ) -> None:  # fmt: skip
        self._model, self._capture, self._tiling, device = model, capture, like.tiling, model.device
        self._held: list[Callable[[], Sample | None]] = [nobody] * count

        def room(part: Tensor, *more: int) -> Tensor:
            return part.new_zeros(count, *more, *part.shape[1:])

        self._x, self._x0, self._known = room(like.x), room(like.x), room(like.x)
        self._mask = room(like.x[:, :1])
        self._history = room(like.x, MEMORY)
        self._noise = room(like.x, 2)
        self._context = None if like.context is None else room(like.context[:1], 2)  # the unconditional one first
        self._concat = None if like.concat is None else room(like.concat)
        self._labels = None if like.class_labels is None else room(like.class_labels)
        self._table = torch.zeros(count, 2 * len(model.schedule) + 2, PLAN + 2, device=device)
        self._step = torch.zeros(count, dtype=torch.int64, device=device)
        self._scale = torch.ones(count, device=device)
        self._slot = torch.arange(count, device=device)
        # by row: its sample, its context; by sample: the row without the condition, and the one with it
        self._index = torch.zeros(4, max(count, 2), dtype=torch.int64, device=device)
        self._layout: list[tuple[int, int]] = []  # rows and contexts of each sample
        self._broken = torch.zeros(count, dtype=torch.bool, device=device)
        # in main memory, in turns: a copy from or to the one of the last step may still be under way
        self._drawn = [host_buffer(self._noise, device) for _ in range(2)]
        self._told = [host_buffer(self._broken, device) for _ in range(2)]
        self._pace = Pace(device)
        self._programs: dict[tuple[int, int], Program] = {}
        self._on_window: OnCall | None = None

    def __contains__(self, sample: Sample) -> bool:
        return any(held is sample for held in self._samples())

    def step(self, samples: Sequence[Sample], rows: int, rows_per_call: int, on_window: OnCall | None) -> list[bool]:
        """One step of `samples`, whose rows fit in `rows`, in U-Net calls of `rows_per_call` rows.

        Returns for each sample whether its latents have been finite; on a GPU as far as the last step but one, unless
        samples have joined or end. When it raises, no sample has changed and no noise is spent.
        """
        self._on_window = on_window
        program = self._program(rows, rows_per_call)
        slot_of, joined = self._occupy(samples)
        before = [(sample.noise, sample.noise.state()) for sample in samples if sample.draws]
        try:
            self._draw_noise(slot_of)
            program()
        except Exception:
            for noise, state in before:
                noise.restore(state)
            raise
        for sample, i in slot_of.items():
            sample.step += 1
            sample.x0 = self._x0[i : i + 1]
        ended = [sample for sample in samples if sample.done]
        broken = self._broken_ones(now=joined or bool(ended))
        self.give_back(ended)
        return [not broken[slot_of[sample]] for sample in samples]

    def _broken_ones(self, *, now: bool) -> list[bool]:
        """By slot, whether its latents have not been finite: after this step, else after the one before."""
        self._told.reverse()
        self._told[0].copy_(self._broken, non_blocking=True)
        self._pace.launched(wait=now)
        return self._told[0 if now else 1].tolist()

    def rehearse(self, rows: int) -> None:
        """Computes a step of `rows` rows that nobody reads, before any sample comes."""
        self._advance(rows, rows)

    def give_back(self, samples: Container[Sample] | None = None) -> None:
        """Gives `samples`, or all, a state of their own; their slots are free."""
        for i, sample in enumerate(self._samples()):
            if sample is not None and (samples is None or sample in samples):
                if self._resides(sample, i):
                    sample.x, sample.history = self._x[i : i + 1].clone(), self._history[i : i + 1].clone()
                    sample.x0 = None if sample.x0 is None else self._x0[i : i + 1].clone()
                self._held[i] = nobody

    # -- who is where

    def _samples(self) -> list[Sample | None]:
        """By slot. A sample that its job has let go is gone."""
        return [held() for held in self._held]

    def _resides(self, sample: Sample, i: int) -> bool:
        """Whether slot `i` has the sample's state: not if somebody has given it another."""
        return sample.x.data_ptr() == self._x[i].data_ptr()

    def _occupy(self, samples: Sequence[Sample]) -> tuple[dict[Sample, int], bool]:
        """Makes `samples` those of the first slots; those that are there keep theirs.

        Returns the slot of each, and whether any has come.
        """
        n, held = len(samples), self._samples()
        slot_of = {s: i for i, s in enumerate(held[:n]) if s is not None and s in samples and self._resides(s, i)}
        self.give_back([sample for sample in held if sample is not None and sample not in slot_of])
        free = iter(sorted(set(range(n)) - set(slot_of.values())))
        coming = {sample: next(free) for sample in samples if sample not in slot_of}
        for sample, i in coming.items():
            self._load(i, sample)
        slot_of |= coming
        self._lay_out(sorted(slot_of, key=slot_of.__getitem__))
        return slot_of, bool(coming)

    def _load(self, i: int, sample: Sample) -> None:
        slot = slice(i, i + 1)
        self._x[slot], self._history[slot] = sample.x, sample.history
        self._table[slot, : len(sample.plan)] = sample.table.to(self._table.device)
        self._step[i], self._scale[i], self._broken[i] = sample.step, sample.guidance_scale, False
        known, mask = sample.known_latents or (0.0, 0.0)
        self._known[slot], self._mask[slot] = known, mask
        for room, part in ((self._concat, sample.concat), (self._labels, sample.class_labels)):
            if room is not None and part is not None:
                room[slot] = part
        if self._context is not None and sample.context is not None:
            self._context[i, : len(sample.context)] = sample.context
        sample.x, sample.history = self._x[slot], self._history[slot]
        self._held[i] = weakref.ref(sample)

    def _lay_out(self, samples: Sequence[Sample]) -> None:
        """Gives each sample its rows, one after the other. Rows that nobody needs repeat the first one."""
        layout = [(sample.rows, 1 if sample.context is None else len(sample.context)) for sample in samples]
        if layout == self._layout:
            return
        self._layout = layout
        index: tuple[list[int], ...] = ([], [], [], [])
        sample_of_row, context_of_row, without, with_it = index
        for i, (rows, contexts) in enumerate(layout):
            without.append(len(sample_of_row))
            sample_of_row += [i] * rows
            context_of_row += range(2 * i + contexts - rows, 2 * i + contexts)
            with_it.append(len(sample_of_row) - 1)
        padded = [[*part, *[part[0]] * (self._index.shape[1] - len(part))] for part in index]
        self._index.copy_(torch.tensor(padded))

    def _draw_noise(self, slot_of: Mapping[Sample, int]) -> None:
        drawn, draws = self._drawn[0], False
        for sample, i in slot_of.items():
            for taker, noise in sample.draw_noise().items():
                drawn[i, taker], draws = noise[0], True
        if draws:
            self._noise[: len(slot_of)].copy_(drawn[: len(slot_of)], non_blocking=True)
            self._drawn.reverse()

    # -- the program

    def _program(self, rows: int, rows_per_call: int) -> Program:
        """The step for so many rows. Capturing runs it, so no sample may be in the slots meanwhile."""
        if (rows, rows_per_call) not in self._programs:
            self.give_back()
            self._index.zero_()  # which may point at more rows than these
            self._layout = []
            program = self._capture(partial(self._advance, rows, rows_per_call))
            self._programs[rows, rows_per_call] = program
        return self._programs[rows, rows_per_call]

    def _advance(self, rows: int, rows_per_call: int) -> None:
        """One step of the first `rows` slots, of which those without a sample compute what nobody reads."""
        n = min(rows, len(self._x))
        x, schedule = self._x[:n], self._model.schedule
        now = self._table[self._slot[:n], self._step[:n]]
        t, alpha_bar, weights = columns_of(now)
        without, with_it = self._index[2, :n], self._index[3, :n]
        out = self._predict(x, t, rows, rows_per_call)
        out = guide(out.index_select(0, without), out.index_select(0, with_it), self._scale[:n])
        following, x0, history = update(
            x, out, self._history[:n], self._noise[:n, SAMPLER], alpha_bar, weights, schedule.prediction_type,
            schedule.clip_sample,
        )  # fmt: skip
        # nothing below can fail
        self._broken[:n] |= ~following.isfinite().flatten(1).all(1)
        known = noised(self._known[:n], self._noise[:n, KNOWN], now[:, LEVEL])
        mask = self._mask[:n] * now[:, HELD, None, None, None]
        self._x[:n] = mask * known + (1 - mask) * following
        self._x0[:n], self._history[:n] = x0, history
        self._step[:n] = (self._step[:n] + 1).clamp(max=self._table.shape[1] - 1)

    def _predict(self, x: Tensor, t: Tensor, rows: int, rows_per_call: int) -> Tensor:
        """What the U-Net predicts for each row: (rows, C, h, w)."""
        sample_of_row, context_of_row = self._index[0, :rows], self._index[1, :rows]
        context = None if self._context is None else self._context.flatten(0, 1).index_select(0, context_of_row)
        x, t = x.index_select(0, sample_of_row), t.index_select(0, sample_of_row)
        concat, labels = (
            None if part is None else part.index_select(0, sample_of_row) for part in (self._concat, self._labels)
        )
        outs = []
        for first in range(0, rows, rows_per_call):
            call = slice(first, first + rows_per_call)
            context_, concat_, labels_ = (None if part is None else part[call] for part in (context, concat, labels))
            outs.append(
                self._model.predict(x[call], t[call], context_, concat_, labels_, self._tiling, self._on_window)
            )
        return outs[0] if len(outs) == 1 else torch.cat(outs)
