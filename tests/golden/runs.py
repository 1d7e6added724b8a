"""The sampling runs of a case, each through `LatentDiffusion.step` with the noise that the reference drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm_core import tasks
from ldm_core.inpainting import keep_known
from ldm_core.noise import NoiseSource
from ldm_core.samplers import NOISE, SAMPLERS, Plan, make_plan
from ldm_core.tasks import Sample
from ldm_core.tiling import Tiling, tiled
from tests.golden.case import Case
from tests.golden.parts import Quantities, hole, hole_channels, quantised


class Recorded(NoiseSource):
    """Noise that was drawn before."""

    def __init__(self, noises: Sequence[Tensor]) -> None:
        super().__init__(0)
        self._noises = iter(noises)

    def draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return next(self._noises)


def run(case: Case, name: str) -> Quantities:
    """A run from x_T with the first rows of the conditioning."""
    about = case.info["runs"][name]
    plan = make_plan(case.model.schedule, about["sampler"], about["steps"], about["eta"])
    yield from _tables(case, name, about)
    samples = list(_samples(case, about, plan, case.get(f"{name}/noise")))
    states = [torch.cat([sample.x for sample in samples])]
    while not samples[0].done:
        case.model.step(samples, rows=sum(sample.rows for sample in samples))
        states.append(torch.cat([sample.x for sample in samples]))
    yield f"{name}/samples", states[-1]
    yield f"{name}/x_inter", torch.stack(states)
    yield f"{name}/pred_x0_last", torch.cat([sample.x0 for sample in samples if sample.x0 is not None])
    yield from _decoded(case, name, samples[0])


def special_runs(case: Case) -> Quantities:
    """Those that begin elsewhere or do something more."""
    runs = case.info["runs"]
    if "img2img" in runs:
        yield from _img2img(case, runs["img2img"])
    if "masked" in runs:
        yield from _masked(case, runs["masked"])
    if "split" in runs:
        yield from _split(case, runs["split"])


def _tables(case: Case, name: str, about: dict[str, Any]) -> Quantities:
    """Ascending, as the reference holds them; PLMS walks along DDIM's."""
    schedule = case.model.schedule
    visited, following = schedule.timesteps(about["steps"])
    plan = make_plan(schedule, "ddim", about["steps"], about["eta"])
    yield f"{name}/timesteps", torch.tensor(visited[::-1])
    yield f"{name}/alphas", schedule.along(visited[::-1])
    yield f"{name}/alphas_prev", schedule.along(following[::-1])
    yield f"{name}/sigmas", plan.weights[:, NOISE].flip(0).double()


def _samples(case: Case, about: dict[str, Any], plan: Plan, noise: Tensor | None) -> Iterator[Sample]:
    context = case.get("cond/context")
    concat = case.get("unet/cond")
    if case.kind == "semantic":
        context, concat = None, context
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


def _decoded(case: Case, name: str, sample: Sample) -> Quantities:
    autoencoder = case.autoencoder
    if autoencoder.quantize is not None:
        yield f"{name}/decoded_noquant", autoencoder.decode(sample.x, quantize=False)
        latents = sample.x / autoencoder.config.scaling_factor
        yield from quantised(f"{name}/vq_indices", autoencoder.quantize, latents)
    yield f"{name}/decoded", autoencoder.decode(sample.x)
    yield f"{name}/image_uint8", torch.from_numpy(np.array(tasks.finish(case.model, sample)))
    if case.kind == "inpaint" and name == "ddim_eta0":
        sample.known = hole(case)
        yield "inpaint/inpainted", tasks.decode(case.model, sample)[None]
        yield "inpaint/inpainted_uint8", torch.from_numpy(np.array(tasks.finish(case.model, sample)))


def _img2img(case: Case, about: dict[str, Any]) -> Quantities:
    """The reference noises to the level of one timestep later than the one from which it walks back."""
    schedule, kept = case.model.schedule, about["t_enc"]
    visited, following = schedule.timesteps(about["steps"])
    noise = case["img2img/noise"]
    t = torch.tensor([visited[::-1][kept]]).expand(len(noise))
    noised = schedule.add_noise(case["img2img/init_latent"].expand_as(noise), noise, t)
    yield "img2img/z_enc", noised
    plan = SAMPLERS[about["sampler"]](schedule, visited[-kept:], following[-kept:], about["eta"])
    samples = list(_samples(case, about, plan, None))
    for i, sample in enumerate(samples):
        sample.x = noised[i : i + 1]
    yield "img2img/samples", _walked(case, samples)


def _masked(case: Case, about: dict[str, Any]) -> Quantities:
    plan = make_plan(case.model.schedule, about["sampler"], about["steps"], about["eta"])
    samples = list(_samples(case, about, plan, case["masked/q_noise"]))
    for i, sample in enumerate(samples):
        sample.kept = case["masked/x0"][i : i + 1], case["masked/mask"][i : i + 1]
        sample.x = keep_known(case.model.schedule, sample, sample.x, 0)
    yield "masked/samples", _walked(case, samples)


def _split(case: Case, about: dict[str, Any]) -> Quantities:
    """Patch-wise: every prediction is made in windows, and so is the decoding."""
    given = about["split_input_params"]
    low, high = given["clip_min_weight"], given["clip_max_weight"]
    tiling = Tiling(size=tuple(given["ks"]), stride=tuple(given["stride"]), low=low, high=high)
    small = case["sr/LR_image"]
    t = torch.tensor([500])
    yield "split/eps", case.model.predict(case["x_T"], t, concat=small, tiling=tiling)
    plan = make_plan(case.model.schedule, about["sampler"], about["steps"], about["eta"])
    samples = list(_samples(case, about, plan, None))
    for sample in samples:
        sample.tiling = tiling
    x = _walked(case, samples)
    yield "split/samples", x
    decode = lambda z, _: case.autoencoder.decode(z, quantize=False)  # noqa: E731
    yield "split/decoded_noquant", tiled(x, decode, tiling, case.autoencoder.config.factor)


def _walked(case: Case, samples: list[Sample]) -> Tensor:
    while not samples[0].done:
        case.model.step(samples, rows=sum(sample.rows for sample in samples))
    return torch.cat([sample.x for sample in samples])
