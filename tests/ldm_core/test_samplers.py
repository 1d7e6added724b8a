"""Every sampler against diffusers' scheduler of that name, over whole runs; and rows of all samplers in one update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ldm_core.params import EVALUATED_TWICE
from ldm_core.params import SAMPLERS as NAMES
from ldm_core.sampling.plan import MEMORY, Plan, update
from ldm_core.sampling.samplers import SAMPLERS, make_plan
from ldm_core.sampling.schedule import NoiseSchedule

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
SHAPE = (1, 4, 8, 8)
TOLERANCE = 1e-4
Run = Iterator[Tensor]


def predict(x: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """What an ideal network says of data spread as N(0.3, 0.5²), plus a ripple: bounded, and not linear."""
    a, b = alpha_bar.double().sqrt(), (1 - alpha_bar.double()).sqrt()
    eps = b * (x.double() - 0.3 * a) / (0.25 * a**2 + b**2) + 0.1 * torch.sin(3 * x.double())
    x0 = (x.double() - b * eps) / a
    return (eps if prediction_type == "epsilon" else a * eps - b * x0).float()


def ours(schedule: NoiseSchedule, plan: Plan, x: Tensor, noises: list[Tensor]) -> Run:
    """The latents after every evaluation."""
    history = x.new_zeros(1, MEMORY, *x.shape[1:])
    for i in range(len(plan)):
        line = plan.alpha_bar[i : i + 1], plan.weights[i : i + 1]
        out = predict(x, line[0], schedule.prediction_type)
        x, _, history = update(x, out, history, noises[i], *line, schedule.prediction_type)
        yield x


def schedules(kind: type[Any], **config: Any) -> tuple[Any, NoiseSchedule]:
    config = {**CONFIG, **config}
    known = {k: v for k, v in config.items() if k in kind().config}
    return kind(**known), NoiseSchedule.from_config({"_class_name": "DDIMScheduler", **config})


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("euler", diffusers.EulerDiscreteScheduler), ("euler_a", diffusers.EulerAncestralDiscreteScheduler)],
)
def test_euler_agrees(
    name: str, kind: type[Any], steps: int, spacing: str, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    peer, schedule = schedules(kind, timestep_spacing=spacing, prediction_type=prediction_type)
    peer.set_timesteps(steps)
    plan = make_plan(schedule, name, steps)
    assert plan.t.tolist() == peer.timesteps.tolist()
    noises = [torch.randn(SHAPE) for _ in plan.t]
    drawn = iter(noises)
    for module in ("scheduling_euler_ancestral_discrete", "scheduling_euler_discrete"):
        target = f"diffusers.schedulers.{module}.randn_tensor"
        monkeypatch.setattr(target, lambda *_, **__: next(drawn))
    x = torch.randn(SHAPE)
    # peers hold x / √ᾱ
    peer_x = x / plan.alpha_bar[0].sqrt()
    for i, (t, mine) in enumerate(zip(peer.timesteps, ours(schedule, plan, x, noises), strict=True)):
        out = predict(peer.scale_model_input(peer_x, t), plan.alpha_bar[i], prediction_type)
        peer_x = peer.step(out, t, peer_x).prev_sample
        root = 1 / (1 + peer.sigmas[i + 1] ** 2).sqrt()
        assert (mine - peer_x * root).abs().max() <= TOLERANCE, f"step {i}"


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [5, 20, 1000])
def test_ddpm_agrees(steps: int, prediction_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    peer, schedule = schedules(diffusers.DDPMScheduler, prediction_type=prediction_type)
    peer.set_timesteps(steps)
    plan = make_plan(schedule, "ddpm", steps)
    assert plan.t.tolist() == peer.timesteps.tolist()
    noises = [torch.randn(SHAPE) for _ in plan.t]
    drawn = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(drawn))
    x = peer_x = torch.randn(SHAPE)
    for i, (t, mine) in enumerate(zip(peer.timesteps, ours(schedule, plan, x, noises), strict=True)):
        peer_x = peer.step(predict(peer_x, plan.alpha_bar[i], prediction_type), t, peer_x).prev_sample
        assert (mine - peer_x).abs().max() <= TOLERANCE, f"step {i}"


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 5, 14, 20, 50])
def test_dpm_solver_agrees(steps: int, prediction_type: str) -> None:
    torch.manual_seed(0)
    kind = diffusers.DPMSolverMultistepScheduler
    peer, schedule = schedules(kind, timestep_spacing="trailing", prediction_type=prediction_type)
    peer.set_timesteps(steps)
    plan = make_plan(schedule, "dpmpp_2m", steps)
    assert plan.t.tolist() == peer.timesteps.tolist()
    x = peer_x = torch.randn(SHAPE)
    for i, (t, mine) in enumerate(zip(peer.timesteps, ours(schedule, plan, x, [x] * len(plan)), strict=True)):
        peer_x = peer.step(predict(peer_x, plan.alpha_bar[i], prediction_type), t, peer_x).prev_sample
        assert (mine - peer_x).abs().max() <= TOLERANCE, f"step {i}"


@pytest.mark.parametrize(("steps", "offset", "one"), [(5, 1, False), (20, 0, True), (50, 1, False)])
def test_plms_agrees(steps: int, offset: int, one: bool) -> None:
    """For ε; from v, the peer mixes v of several timesteps where CompVis and we mix the ε that they stand for."""
    torch.manual_seed(0)
    prediction_type = "epsilon"
    peer, schedule = schedules(
        diffusers.PNDMScheduler, skip_prk_steps=True, steps_offset=offset, set_alpha_to_one=one,
        prediction_type=prediction_type,
    )  # fmt: skip
    peer.set_timesteps(steps)
    plan = make_plan(schedule, "plms", steps)
    assert plan.t.tolist() == peer.timesteps.tolist()
    x = peer_x = torch.randn(SHAPE)
    for i, (t, mine) in enumerate(zip(peer.timesteps, ours(schedule, plan, x, [x] * len(plan)), strict=True)):
        peer_x = peer.step(predict(peer_x, plan.alpha_bar[i], prediction_type), t, peer_x).prev_sample
        assert (mine - peer_x).abs().max() <= TOLERANCE, f"step {i}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 333, 777, 1000])
def test_any_number_of_steps_ends_at_the_data(name: str, steps: int) -> None:
    """The reference raises at some of these counts; ours cover the schedule and end where the data are."""
    torch.manual_seed(0)
    schedule = NoiseSchedule.from_config({"_class_name": "DDIMScheduler", **CONFIG, "steps_offset": 1})
    plan = make_plan(schedule, name, steps)
    x = torch.randn(1, 4, 32, 32)
    noises = [torch.randn(x.shape) for _ in plan.t]
    for last in ours(schedule, plan, x, noises):
        assert last.isfinite().all()
    assert plan.t.max() < 1000 and plan.t.min() >= 0
    if steps >= 7:
        assert abs(last.mean() - 0.3) < 0.1 and 0.2 < last.std() < 0.7


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_that_ends_in_pure_noise_gives_finite_latents(name: str) -> None:
    torch.manual_seed(0)
    config = {**CONFIG, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    schedule = NoiseSchedule.from_config({**config, "timestep_spacing": "trailing", "_class_name": "DDIMScheduler"})
    plan = make_plan(schedule, name, 10)
    x = torch.randn(1, 4, 32, 32)
    history = x.new_zeros(1, MEMORY, *x.shape[1:])
    for i in range(len(plan)):
        line = plan.alpha_bar[i : i + 1], plan.weights[i : i + 1]
        a, b = line[0].double().sqrt(), (1 - line[0].double()).sqrt()
        x0 = 0.3 + 0.25 * a * (x.double() - 0.3 * a) / (0.25 * a**2 + b**2)  # of data spread as N(0.3, 0.5²)
        v = (a * x.double() - x0) / b
        x, _, history = update(x, v.float(), history, torch.randn(x.shape), *line, "v_prediction")
    assert x.isfinite().all()
    assert abs(x.mean() - 0.3) < 0.15 and 0.2 < x.std() < 0.8


def test_rows_of_all_samplers_in_one_update_are_what_they_are_alone() -> None:
    torch.manual_seed(0)
    schedule = NoiseSchedule.from_config({"_class_name": "DDIMScheduler", **CONFIG})
    plans = [make_plan(schedule, name, 10 + i) for i, name in enumerate(NAMES)]
    many = len(plans)
    x, out, noise = (torch.randn(many, *SHAPE[1:]) for _ in range(3))
    history = torch.randn(many, MEMORY, *SHAPE[1:])
    alpha_bar = torch.stack([plan.alpha_bar[4] for plan in plans])
    weights = torch.stack([plan.weights[4] for plan in plans])
    together = update(x, out, history, noise, alpha_bar, weights)
    for i in range(many):
        row = slice(i, i + 1)
        alone = update(x[row], out[row], history[row], noise[row], alpha_bar[row], weights[row])
        assert all(torch.equal(a, b[row]) for a, b in zip(alone, together, strict=True))


def test_the_names_that_requests_may_use_are_those_that_exist() -> None:
    assert set(NAMES) == set(SAMPLERS)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_counted_whatever_a_sampler_evaluates(name: str) -> None:
    schedule = NoiseSchedule.from_config({"_class_name": "DDIMScheduler", **CONFIG})
    plan = make_plan(schedule, name, 6)
    left = [plan.steps_left(line) for line in range(len(plan) + 1)]
    assert left == sorted(left, reverse=True) and {*left} == {*range(7 + (name == "plms"))}
    assert len(plan) == (11 if name in EVALUATED_TWICE else 6 + (name == "plms"))
