"""What is refused before a job exists, and that the message names field and limit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from ldm_core.card import ModelCard
from ldm_core.errors import InvalidImage, InvalidParameter, UnsupportedTask
from ldm_core.job_warning import JobWarning
from ldm_core.params import GenerationParams, Task

PARAMS = GenerationParams(task="txt2img", width=64, height=64, steps=20, guidance_scale=4.0, seed=1, prompt="a house")
CARD = ModelCard(
    id="m",
    tasks=("txt2img", "inpaint"),
    native_size=(64, 64),
    size_multiple=16,
    max_pixels=128 * 128,
    default_steps=20,
    default_guidance_scale=4.0,
)


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("steps", 0, "between 1 and 1000"),
        ("steps", 1001, "between 1 and 1000"),
        ("guidance_scale", 0.5, "between 1.0 and 30.0"),
        ("guidance_scale", math.nan, "between 1.0 and 30.0"),
        ("guidance_scale", math.inf, "between 1.0 and 30.0"),
        ("eta", -0.1, "between 0.0 and 1.0"),
        ("seed", 2**32, "between 0 and 4294967295"),
        ("n", 9, "between 1 and 8"),
        ("width", 0, "at least 1"),
        ("prompt", "x" * 2001, "at most 2000"),
        ("task", "video", "txt2img, inpaint, superres"),
    ],
)
def test_out_of_range_is_refused_with_its_limit(field: str, value: Any, limit: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        replace(PARAMS, **{field: value})
    assert refused.value.field == field
    assert limit in refused.value.detail


def test_every_image_has_the_seed_of_a_job_of_its_own() -> None:
    params = replace(PARAMS, seed=2**32 - 1, n=3)
    assert [params.image_seed(i) for i in range(3)] == [2**32 - 1, 0, 1]


def test_json_round_trip_and_unknown_names() -> None:
    assert GenerationParams.from_json(PARAMS.to_json()) == PARAMS
    with pytest.raises(InvalidParameter, match="guidence_scale"):
        GenerationParams.from_json({**PARAMS.to_json(), "guidence_scale": 3})


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"task": "superres"}, UnsupportedTask, "model"),
        ({"sampler": "nothing"}, InvalidParameter, "sampler"),
        ({"height": 70}, InvalidParameter, "height"),
        ({"width": 256, "height": 128}, InvalidParameter, "width"),
    ],
)
def test_a_card_refuses_what_its_model_does_not_do(change: dict[str, Any], error: type[Exception], field: str) -> None:
    with pytest.raises(error) as refused:
        CARD.check(replace(PARAMS, **change))
    assert refused.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(1, 64), (15, 15), (129, 128)])
def test_a_card_refuses_images_too_small_or_too_large(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage, match=r"at (least \d+ pixels|most \d+x\d+)"):
        CARD.check_input_size("image", *size)


def test_a_card_survives_json() -> None:
    import json

    card = replace(CARD, warnings=(JobWarning("sampler_replaced", "the directory names 'heun'; 'ddim' is used"),))
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize(("task", "field"), [("class2img", "class_id"), ("layout2img", "objects")])
def test_what_a_task_cannot_do_without_is_required(task: Task, field: str) -> None:
    with pytest.raises(InvalidParameter, match=f"{field}: is required for {task}"):
        GenerationParams(task=task, width=64, height=64, steps=5, guidance_scale=1.0, seed=1)
