"""Samplers beyond the research code's, each evaluation against diffusers' scheduler of that name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules
from torch import Tensor

from ldm_core.params import COUNTS_IN_TIMESTEPS
from ldm_core.sampling.plan import Plan
from ldm_core.sampling.samplers import make_plan
from ldm_core.sampling.schedule import NoiseSchedule
from ldm_core.sampling.spacing import WHOLE
from tests.ldm_core.test_samplers import CONFIG, SHAPE, TOLERANCE, ours, predict, schedules

MULTISTEP = diffusers.DPMSolverMultistepScheduler
# sampler: diffusers' class and its settings, and whether that class holds x / √ᾱ
PEERS: dict[str, tuple[type[Any], dict[str, Any], bool]] = {
    "dpmpp_2m_sde": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, False),
    "unipc": (diffusers.UniPCMultistepScheduler, {}, False),
    "heun": (diffusers.HeunDiscreteScheduler, {}, True),
    "lms": (diffusers.LMSDiscreteScheduler, {}, True),
    "deis": (diffusers.DEISMultistepScheduler, {}, False),
    "lcm": (diffusers.LCMScheduler, {}, False),
    "tcd": (diffusers.TCDScheduler, {}, False),
    "dpmpp_sde": (diffusers.DPMSolverSDEScheduler, {}, True),
    "euler": (diffusers.EulerDiscreteScheduler, {}, True),
    "dpmpp_2m": (MULTISTEP, {}, False),
}
PREDICTIONS = ["epsilon", "v_prediction"]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [2, 3, 5, 14, 20, 50])
@pytest.mark.parametrize("name", PEERS)
def test_each_step_agrees(
    name: str, steps: int, spacing: str, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings, _ = PEERS[name]
    needs(name)
    config = {**settings, "timestep_spacing": spacing, "prediction_type": prediction_type}
    peer, _ = schedules(kind, **config)
    schedule = NoiseSchedule.from_config({"_class_name": kind.__name__, **dict(peer.config)})
    peer.set_timesteps(steps)
    assert_agrees(
        name, peer, schedule, make_plan(schedule, name, steps, eta=0.3 if name == "tcd" else 0.0), monkeypatch
    )


SPACINGS: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
}


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", [name for name in PEERS if name not in COUNTS_IN_TIMESTEPS])
def test_each_step_agrees_along_another_spacing(
    name: str, spacing: str, steps: int, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings, _ = PEERS[name]
    needs(name)
    config = {**settings, "timestep_spacing": "leading", "prediction_type": prediction_type}
    peer, _ = schedules(kind, **{**config, **SPACINGS[spacing]})
    schedule = NoiseSchedule.from_config({"_class_name": kind.__name__, **CONFIG, **config})
    peer.set_timesteps(steps)
    # diffusers cuts 998.9999 down to 998 where the level is that of 999
    apart = 1.0 if spacing == "exponential" and name in WHOLE else 1e-2
    assert_agrees(name, peer, schedule, make_plan(schedule, name, steps, spacing=spacing), monkeypatch, apart)


def test_ten_steps_of_ays_are_the_published_ones() -> None:
    """As diffusers has them; its timesteps are whole."""
    published = AysSchedules["StableDiffusionSigmas"]
    peer, schedule = schedules(diffusers.EulerDiscreteScheduler)
    peer.set_timesteps(sigmas=published)
    plan = make_plan(schedule, "euler", 10, spacing="ays")
    assert torch.allclose(((1 - plan.alpha_bar) / plan.alpha_bar).sqrt(), torch.tensor(published[:-1]), rtol=1e-4)
    assert torch.allclose(plan.table[:, 0], peer.timesteps, atol=1e-2)
    assert (plan.t - torch.tensor(AysSchedules["StableDiffusionTimesteps"])).abs().max() <= 2


def needs(name: str) -> None:
    """Skips what diffusers' class of that sampler needs and is not there."""
    for sampler, package in (("lms", "scipy"), ("dpmpp_sde", "torchsde")):
        if name == sampler:
            pytest.importorskip(package)


def assert_agrees(
    name: str, peer: Any, schedule: NoiseSchedule, plan: Plan, monkeypatch: pytest.MonkeyPatch, apart: float = 1e-2
) -> None:
    """Walks both through the same noise; `peer` has its timesteps."""
    torch.manual_seed(0)
    assert torch.allclose(plan.table[:, 0].double(), peer.timesteps.double(), atol=apart)
    noises = [torch.randn(SHAPE) for _ in plan.t]
    feed(peer, noises, monkeypatch)
    x = torch.randn(SHAPE)
    theirs = walked(peer, PEERS[name][2], plan, x, schedule.prediction_type)
    for i, (mine, other) in enumerate(zip(ours(schedule, plan, x, noises), theirs, strict=True)):
        assert (mine - other).abs().max() <= TOLERANCE, f"evaluation {i}"


def feed(peer: Any, noises: Iterable[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the scheduler draw these."""
    drawn = iter(noises)
    if hasattr(peer, "noise_sampler"):
        peer.noise_sampler = OnePath(drawn)
    if hasattr(__import__(type(peer).__module__, fromlist=["x"]), "randn_tensor"):
        monkeypatch.setattr(f"{type(peer).__module__}.randn_tensor", lambda *_, **__: next(drawn))


class OnePath:
    """A Brownian path in σ, of fresh noise for each part of it that nobody has asked for: the tree's law."""

    def __init__(self, drawn: Iterator[Tensor]) -> None:
        self._drawn, self._half = drawn, (0.0, 0.0, torch.zeros(SHAPE))

    def __call__(self, sigma: Tensor, following: Tensor) -> Tensor:
        start, end = float(sigma), float(following)
        since, middle, increment = self._half
        if since != start:  # the first evaluation of a step
            self._half = (start, end, next(self._drawn) * (start - end) ** 0.5)
            return self._half[2] / (start - end) ** 0.5
        return (increment + next(self._drawn) * (middle - end) ** 0.5) / (start - end) ** 0.5


def walked(peer: Any, scaled: bool, plan: Plan, x: Tensor, prediction_type: str) -> Iterator[Tensor]:
    """The scheduler's latents after every evaluation, as ours are: with the variance of noisy data."""
    levels = [*plan.alpha_bar, None]
    x = x / plan.alpha_bar[0].sqrt() if scaled else x
    for i, t in enumerate(peer.timesteps):
        out = predict(peer.scale_model_input(x, t), plan.alpha_bar[i], prediction_type)
        x = peer.step(out, int(t) if scaled is False else t, x).prev_sample
        level = levels[i + 1]
        yield x * level.sqrt() if scaled and level is not None else x
