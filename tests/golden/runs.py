"""The sampling runs of a case, each through `LatentDiffusion.step` with the noise that the reference drew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.sampling.course import Course
from ldm_core.sampling.noise import NoiseSource
from ldm_core.sampling.plan import NOISE, Plan
from ldm_core.sampling.sample import Sample
from ldm_core.sampling.samplers import SAMPLERS, make_plan
from ldm_core.sampling.tiling import Tiling, tiled
from tests.golden.case import Case
from tests.golden.parts import Quantities, hole, hole_channels, quantised

About = Mapping[str, Any]  # what `case.json` says of a run


class Recorded(NoiseSource):
    """Noise that was drawn before."""

    def __init__(self, noises: Sequence[Tensor]) -> None:
        super().__init__(0)
        self._noises = iter(noises)

    def draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return next(self._noises)


def run(case: Case, name: str) -> Quantities:
    """A run of `case.json`; those of `SPECIAL` begin elsewhere than at x_T or do something more."""
    about = case.runs[name]
    yield from _tables(case, name, about)
    yield from SPECIAL.get(name, _plain)(case, name, about)


def _plain(case: Case, name: str, about: About) -> Quantities:
    """From x_T with the first rows of the conditioning."""
    samples = list(_samples(case, about, _plan(case, about), case.get(f"{name}/noise")))
    yield from _walked(case, name, samples)
    yield from _decoded(case, name, samples[0], case.autoencoder.decode)


def _img2img(case: Case, name: str, about: About) -> Quantities:
    """The reference noises to the level of one timestep later than the one from which it walks back."""
    schedule, kept = case.model.schedule, about["t_enc"]
    visited, following = schedule.timesteps(about["steps"])
    noise = case[f"{name}/noise"]
    t = torch.tensor([visited[::-1][kept]]).expand(len(noise))
    noised = schedule.add_noise(case[f"{name}/init_latent"].expand_as(noise), noise, t)
    yield f"{name}/z_enc", noised
    plan = SAMPLERS[about["sampler"]](Course(schedule, visited[-kept:], following[-kept:]), about["eta"])
    samples = list(_samples(case, about, plan, None))
    for i, sample in enumerate(samples):
        sample.x = noised[i : i + 1]
    yield from _walked(case, name, samples)
    yield from _decoded(case, name, samples[0], case.autoencoder.decode)


def _masked(case: Case, name: str, about: About) -> Quantities:
    """What is known is noised anew before every step."""
    samples = list(_samples(case, about, _plan(case, about), case[f"{name}/q_noise"]))
    for i, sample in enumerate(samples):
        sample.known_latents = case[f"{name}/x0"][i : i + 1], case[f"{name}/mask"][i : i + 1]
        sample.x = sample.hold_known(sample.x, 0)
    yield from _walked(case, name, samples)
    yield from _decoded(case, name, samples[0], case.autoencoder.decode)


def _split(case: Case, name: str, about: About) -> Quantities:
    """Patch-wise: every prediction is made in windows, and so is the decoding."""
    given = about["split_input_params"]
    low, high = given["clip_min_weight"], given["clip_max_weight"]
    tiling = Tiling(size=tuple(given["ks"]), stride=tuple(given["stride"]), low=low, high=high)
    samples = list(_samples(case, about, _plan(case, about), case.get(f"{name}/noise")))
    t = torch.tensor([500])
    yield f"{name}/eps", case.model.predict(case["x_T"][:1], t, samples[0].context, samples[0].concat, tiling=tiling)
    for sample in samples:
        sample.tiling = tiling
    yield from _walked(case, name, samples)

    def decode(x: Tensor, *, quantize: bool = True) -> Tensor:
        of_window = partial(case.autoencoder.decode, quantize=quantize)
        return tiled(x, lambda part, _: of_window(part), tiling, case.autoencoder.config.factor)

    yield from _decoded(case, name, samples[0], decode)


SPECIAL: Mapping[str, Callable[[Case, str, About], Quantities]] = {
    "img2img": _img2img, "masked": _masked, "split": _split,
}  # fmt: skip


def _plan(case: Case, about: About) -> Plan:
    return make_plan(case.model.schedule, about["sampler"], about["steps"], about["eta"])


def _tables(case: Case, name: str, about: About) -> Quantities:
    """Ascending, as the reference holds them; PLMS walks along DDIM's."""
    schedule = case.model.schedule
    visited, following = schedule.timesteps(about["steps"])
    plan = make_plan(schedule, "ddim", about["steps"], about["eta"])
    yield f"{name}/timesteps", torch.tensor(visited[::-1])
    yield f"{name}/alphas", schedule.along(visited[::-1])
    yield f"{name}/alphas_prev", schedule.along(following[::-1])
    yield f"{name}/sigmas", plan.weights[:, NOISE].flip(0).double()


def _samples(case: Case, about: About, plan: Plan, noise: Tensor | None) -> Iterator[Sample]:
    context, concat = case.context_and_channels()
    if case.kind == "inpaint":
        concat = hole_channels(case)
    elif case.kind == "sr":
        concat = case["sr/LR_image"]
    for i in range(about["batch"]):
        row = slice(i, i + 1)
        parts = [] if context is None else [context[row]]
        if about["guidance_scale"] != 1:
            parts.insert(0, case["cond/uncond_context"])
        factor = case.autoencoder.config.factor
        yield Sample(
            x=case["x_T"][row],
            plan=plan,
            noise=NoiseSource(0) if noise is None else Recorded(list(noise[:, row])),
            size=(case["x_T"].shape[3] * factor, case["x_T"].shape[2] * factor),
            context=torch.cat(parts) if parts else None,
            guidance_scale=about["guidance_scale"],
            concat=None if concat is None else concat[row],
        )


def _walked(case: Case, name: str, samples: list[Sample]) -> Quantities:
    """All steps of a run."""
    states = [torch.cat([sample.x for sample in samples])]
    denoiser = Denoiser(case.model, rows=sum(sample.rows for sample in samples))
    while not samples[0].done:
        denoiser.step(samples)
        states.append(torch.cat([sample.x for sample in samples]))
    yield f"{name}/samples", states[-1]
    yield f"{name}/x_inter", torch.stack(states)
    yield f"{name}/pred_x0_last", torch.cat([sample.x0 for sample in samples if sample.x0 is not None])


def _decoded(case: Case, name: str, sample: Sample, decode: Callable[..., Tensor]) -> Quantities:
    """Row 0 as an image."""
    codebook = case.autoencoder.quantize
    if codebook is not None:
        yield f"{name}/decoded_noquant", decode(sample.x, quantize=False)
        yield from quantised(f"{name}/vq_indices", codebook, sample.x / case.autoencoder.config.scaling_factor)
    yield f"{name}/decoded", decode(sample.x)
    yield f"{name}/image_uint8", torch.from_numpy(np.array(tasks.finish(case.model, sample)))
    if case.kind == "inpaint" and name == "ddim_eta0":
        sample.known_image = hole(case)
        yield "inpaint/inpainted", tasks.decode(case.model, sample)[None]
        yield "inpaint/inpainted_uint8", torch.from_numpy(np.array(tasks.finish(case.model, sample)))
