"""A latent diffusion model put together, and the readable loop that samples from it.

The worker's engine runs the same `tasks.begin`, `predict`, `samplers.update` and `tasks.finish` for many jobs at
once; `generate` is what it must equal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from PIL import Image
from torch import Tensor

from ldm_core import tasks
from ldm_core.autoencoder import Autoencoder
from ldm_core.card import ModelCard
from ldm_core.compiled import CompiledUNet
from ldm_core.conditioning import Condition
from ldm_core.inpainting import HoleStyle, MaskedPicture, keep_known
from ldm_core.latest import Latest
from ldm_core.params import GenerationParams
from ldm_core.row_counts import calls, default_rows, is_small, row_counts
from ldm_core.samplers import guide, update
from ldm_core.schedule import NoiseSchedule
from ldm_core.tasks import Sample
from ldm_core.tiling import Tiling, Window, tiled
from ldm_core.unet import UNet

SIZES = 64  # whose blank picture is kept


def _nothing(rows: int) -> None:
    """For those who need not hear of every call."""


@dataclass(kw_only=True)
class LatentDiffusion:
    """The frozen networks of one model on one device. Latents are float32 whatever the networks' dtype."""

    card: ModelCard
    unet: UNet
    autoencoder: Autoencoder
    condition: Condition
    schedule: NoiseSchedule
    low_res_schedule: NoiseSchedule | None  # of a model that sees the small picture noised
    device: torch.device
    dtype: torch.dtype
    digest: str = ""  # of all weights and settings on which its pictures depend
    _blank: Latest[tuple[Tensor, Tensor]] = field(default_factory=Latest)
    _compiled: CompiledUNet | None = None

    @property
    def inpaints_by_concat(self) -> bool:
        """Whether the U-Net takes a mask and the masked picture's latents behind the noisy latents."""
        return self.unet.config.in_channels == 2 * self.autoencoder.config.latent_channels + 1

    @property
    def compiled(self) -> bool:
        """Whether U-Net calls of the native size are."""
        return self._compiled is not None

    @cached_property
    def is_small(self) -> bool:
        """Whether the time that a U-Net call itself takes shows beside its arithmetic."""
        return is_small(self.unet)

    def default_rows(self) -> int:
        """Rows of one U-Net call where nothing is set."""
        return default_rows(self.unet, self.device, guided=self.card.default_guidance_scale > 1)

    @property
    def hole_style(self) -> HoleStyle:
        """How the U-Net sees a hole."""
        return self.condition.config if isinstance(self.condition, MaskedPicture) else HoleStyle()

    def moments(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both scaled, of a picture's latents: (1, 3, H, W) → 2 × (1, C, h, w)."""
        return self.autoencoder.moments(picture.to(self.dtype))

    def blank_moments(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """`moments` of an all-grey picture of that latent size, kept for the latest sizes."""
        factor = self.autoencoder.config.factor

        def computed() -> tuple[Tensor, Tensor]:
            return self.moments(torch.zeros(1, 3, height * factor, width * factor, device=self.device))

        return self._blank.get((height, width), computed, SIZES)

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor | None = None,
        concat: Tensor | None = None,
        class_labels: Tensor | None = None,
        tiling: Tiling | None = None,
        called: Callable[[int], None] = _nothing,
    ) -> Tensor:
        """One U-Net call over B rows: (B, C, h, w), (B,), (B, L, D), (B, C', h, w), (B,) → (B, C, h, w) float32.

        With a tiling, one call for each of its windows, after each of which `called` is given 0.
        """
        if tiling is not None:

            def of_window(part: Tensor, place: Window) -> Tensor:
                cut = None if concat is None else concat[:, :, place[0], place[1]]
                out = self.predict(part, t, context, cut, class_labels)
                called(0)
                return out

            return tiled(x, of_window, tiling)
        x = x if concat is None else torch.cat([x, concat], dim=1)
        context = None if context is None else context.to(self.dtype)
        unet = self.unet if self._compiled is None else self._compiled
        return unet(x.to(self.dtype), t, context, class_labels).float()

    def compile(self, rows: int) -> None:
        """Compiles U-Net calls of `rows` rows at the native size, and no others; it takes minutes.

        Less where inductor finds its cache of an earlier time. Other bytes than without are to be expected, but the
        same whoever shares a call.
        """
        self._compiled = CompiledUNet(self.unet)
        task, (width, height), scale = self.card.tasks[0], self.card.native_size, self.card.scale
        blank = GenerationParams(
            task=task, width=width, height=height, steps=1, seed=0, guidance_scale=self.card.guidance_for(task),
            class_id=0 if task == "class2img" else None, objects=() if task == "layout2img" else None,
        )  # fmt: skip
        pictures = [Image.new(mode, (width // scale, height // scale)) for mode in ("RGB", "L")]
        image, mask = pictures if task != "semantic2img" else pictures[::-1]
        self.generate(
            blank,
            image if task in {"inpaint", "superres", "semantic2img"} else None,
            mask if task == "inpaint" else None,
            rows=rows,
        )
        self._compiled.learning = False

    @torch.inference_mode()
    def generate(
        self,
        params: GenerationParams,
        image: Image.Image | None = None,
        mask: Image.Image | None = None,
        *,
        neighbors: Sequence[Image.Image] = (),
        rows: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """Runs one job alone and returns its `params.n` pictures.

        `neighbors` are what a retrieval-augmented model is given to look at. `rows` is the number of rows of every
        U-Net call (ARCHITECTURE.md, "Same bytes"). `progress` is called with (steps done, steps). Raises
        RequestError for what the model does not take.
        """
        given = {"image": image, "mask": mask, **{f"neighbor{i}": each for i, each in enumerate(neighbors)}}
        inputs = {name: picture for name, picture in given.items() if picture is not None}
        pictures = []
        for index in range(params.n):
            sample = tasks.begin(self, params, index, inputs)
            while not sample.done:
                self.step([sample], rows)
                if progress is not None:
                    progress(index * params.steps + sample.steps_done(params.steps), params.n * params.steps)
            pictures.append(tasks.finish(self, sample))
        return pictures

    @torch.inference_mode()
    def step(self, samples: Sequence[Sample], rows: int, called: Callable[[int], None] = _nothing) -> list[bool]:
        """One denoising step of every sample, each at a step of its own, in U-Net calls of `rows` rows.

        The samples share a batch key. Larger calls are made where they give the same bytes (row_counts.py). Returns for
        each sample whether its latents are finite. `called` is given the number of rows of every call that has ended,
        and 0 after each window of one.
        When one raises, no sample has changed and no noise is spent, so that the same samples can be stepped again in
        smaller batches.
        """
        before = [(sample.noise, sample.noise.state()) for sample in samples if sample.draws]
        try:
            return self._step(samples, rows, called)
        except Exception:
            for noise, state in before:
                noise.restore(state)
            raise

    def _step(self, samples: Sequence[Sample], rows: int, called: Callable[[int], None]) -> list[bool]:
        x = torch.cat([sample.x for sample in samples])
        lines = torch.stack([sample.plan.lines[sample.step] for sample in samples]).to(self.device)
        out = self._predict_guided(x, lines[:, 0], samples, rows, called)
        plans = [sample.plan for sample in samples]
        past = torch.cat([sample.past for sample in samples]) if any(plan.remembers for plan in plans) else None
        drawn = (
            torch.cat([sample.draw_noise() for sample in samples]) if any(plan.draws_noise for plan in plans) else None
        )
        kind, clip = self.schedule.prediction_type, self.schedule.clip_sample
        x, x0, past = update(x, out, past, drawn, lines[:, 1], lines[:, 2:], kind, clip)
        finite: list[bool] = x.isfinite().flatten(1).all(1).tolist()
        latents = [keep_known(s, each, s.step + 1) for s, each in zip(samples, x.split(1), strict=True)]
        pasts = [sample.past for sample in samples] if past is None else past.split(1)
        for sample, *state in zip(samples, latents, x0.split(1), pasts, strict=True):  # nothing below can fail
            sample.x, sample.x0, sample.past = state
            sample.step += 1
        return finite

    def _predict_guided(
        self, x: Tensor, t: Tensor, samples: Sequence[Sample], rows: int, called: Callable[[int], None]
    ) -> Tensor:
        """What the U-Net predicts for each sample, guided where the sample asks for it: (B, C, h, w)."""
        context, concat, labels = (
            _stacked([getattr(sample, name) for sample in samples]) for name in ("context", "concat", "class_labels")
        )
        owner = [i for i, sample in enumerate(samples) for _ in range(sample.rows)]

        def call(row: list[int]) -> Tensor:
            (here,) = _picked([context], row)
            seen, times, behind, label = _picked([x, t, concat, labels], [owner[i] for i in row])
            assert seen is not None and times is not None
            return self.predict(seen, times, here, behind, label, samples[0].tiling, called)

        as_it_is = not self.compiled and samples[0].tiling is None and self.is_small
        counts = row_counts(x, self.dtype, rows) if as_it_is else (rows,)
        outs = []
        for row in calls(len(owner), counts):
            outs.append(call(row))
            called(len(row))
        out = torch.cat(outs)[: len(owner)]
        if len(owner) == len(samples):
            return out
        conditional = [i for i in range(len(owner)) if i + 1 == len(owner) or owner[i + 1] != owner[i]]
        unconditional = [i for i in range(len(owner)) if i == 0 or owner[i - 1] != owner[i]]  # the same when unguided
        scale = _constant(tuple(sample.guidance_scale for sample in samples), torch.float32, self.device)
        (without,), (with_it,) = _picked([out], unconditional), _picked([out], conditional)
        assert without is not None and with_it is not None
        return guide(without, with_it, scale)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # who asks first may be in it, who asks next may not
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(len(values),). What the steps of a batch share is brought to the device once."""
    return torch.tensor(values, dtype=dtype, device=device)


def _picked(parts: Sequence[Tensor | None], rows: list[int]) -> list[Tensor | None]:
    """Those rows of each that is there; the whole where that is what they are."""
    first = next((part for part in parts if part is not None), None)
    if first is None or rows == list(range(len(first))):
        return [*parts]
    index = _constant(tuple(rows), torch.int64, first.device)
    return [None if part is None else part.index_select(0, index) for part in parts]


def _stacked(parts: Sequence[Tensor | None]) -> Tensor | None:
    """All of them or none: samples of one model have the same channels."""
    present = [part for part in parts if part is not None]
    assert len(present) in {0, len(parts)}, "rows of two shapes share a batch key"
    return torch.cat(present) if present else None
