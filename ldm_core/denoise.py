"""Steps samples of one model, each at a step, with a sampler and a guidance of its own, in shared U-Net calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch

from ldm_core.device import Program, as_it_is
from ldm_core.device_errors import is_out_of_memory
from ldm_core.model import LatentDiffusion, OnCall
from ldm_core.row_counts import Ladder
from ldm_core.sampling.sample import Sample
from ldm_core.slots import Slots

KEPT_KEYS = 8  # batch keys, such as sizes, whose slots and captured programs are kept


class Denoiser:
    """Steps any samples of `model` in calls of `rows` rows, or of more where their bytes are the same.

    A step of the same samples as before is what `capture` makes of it: with `model.capture`, on a GPU, one launch.
    Keeps the state of samples between steps, so one denoiser makes all steps of a sample, on one thread at a time.
    """

    def __init__(
        self, model: LatentDiffusion, rows: int, capture: Callable[[Program], Program] = as_it_is
    ) -> None:  # fmt: skip
        self._model, self._capture = model, capture
        self._ladder = Ladder(model.unet, model.device, model.dtype, rows)
        self._slots: dict[Hashable, list[Slots]] = {}  # by batch key, the latest last

    def step(self, samples: Sequence[Sample], on_call: OnCall | None = None) -> list[bool]:
        """One step of every sample; they share a batch key. Returns for each whether its latents are finite."""
        finite: dict[Sample, bool] = {}
        for place, group in enumerate(self.groups(samples)):
            finite |= zip(group, self.step_group(place, group, on_call), strict=True)
        return [finite[sample] for sample in samples]

    def groups(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """The samples by the call that they share; those that shared one before come first."""
        counts = self._counts(samples[0])
        left = sorted(samples, key=self._home)
        groups = []
        while left:
            count = _next_count(sum(sample.rows for sample in left), counts)
            size, rows = 0, 0
            while size < len(left) and (size == 0 or rows + left[size].rows <= count):
                rows, size = rows + left[size].rows, size + 1
            groups.append(left[:size])
            left = left[size:]
        return groups

    @torch.inference_mode()
    def step_group(self, place: int, group: Sequence[Sample], on_call: OnCall | None = None) -> list[bool]:
        """One step of the samples that `groups` has put at `place`. Returns for each whether its latents are finite.

        `on_call` is given the number of rows of every call that has ended, and 0 after each window of one. When one
        raises, no sample has changed and no noise is spent, so that they can be stepped again in smaller groups.
        """
        needed = sum(sample.rows for sample in group)
        counts = self._counts(group[0])
        rows_per_call = next((count for count in counts if count >= needed), counts[-1])
        rows = -(-needed // rows_per_call) * rows_per_call
        try:
            finite = self._slots_at(place, group, counts).step(group, rows, rows_per_call, on_call)
        except Exception as error:
            if not is_out_of_memory(error) or not self._ladder.narrow(group[0].x, rows_per_call):
                raise
            torch.cuda.empty_cache()
            return self.step(group, on_call)
        if on_call is not None:
            on_call(rows)
        return finite

    def _counts(self, sample: Sample) -> tuple[int, ...]:
        return self._ladder.counts(sample.x, tiled=sample.tiling is not None)

    def _home(self, sample: Sample) -> int:
        """Which of its key's slots a sample is in; of a new one the last."""
        known = self._slots.get(sample.batch_key, [])
        return next((i for i, slots in enumerate(known) if sample in slots), len(known))

    def _slots_at(self, place: int, group: Sequence[Sample], counts: Sequence[int]) -> Slots:
        """The slots of the group's key at `place`, with none of the group left in the key's other slots."""
        key = group[0].batch_key
        known = self._slots.pop(key, [])
        self._slots[key] = known
        while len(self._slots) > KEPT_KEYS:
            for slots in self._slots.pop(next(iter(self._slots))):
                slots.give_back()
        while len(known) <= place:
            slots = Slots(self._model, self._capture, group[0], counts[-1])
            self._ladder.admit(group[0].x, partial(slots.rehearse, counts[0]), tiled=group[0].tiling is not None)
            known.append(slots)
        for slots in known[:place] + known[place + 1 :]:
            slots.give_back(group)
        return known[place]


def _next_count(rows: int, counts: Sequence[int]) -> int:
    """Rows of the next call of `rows` that are left: the fewest that do, unless a quarter of them were padding."""
    enough = next((count for count in counts if count >= rows), counts[-1])
    fitting = max((count for count in counts if count <= rows), default=enough)
    return enough if 4 * (enough - rows) <= enough else fitting
