"""The evaluation: what it measures with, that it runs for every task, and that the card hides nothing."""

from __future__ import annotations

import copy
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import write_tiny_models
from training.classifier import AttributeClassifier
from training.evaluate import evaluate, table
from training.held_out import held_out, house_hole, labels, repaints
from training.measures import obedience
from training.model_card import render_card, targets
from training.scenes.render import render
from training.scenes.scene import ATTRIBUTES, random_scene


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(0)
    directories = write_tiny_models(tmp_path_factory.mktemp("models"))
    return evaluate(directories, AttributeClassifier().eval(), captions=4, real_pictures=6)


def test_held_out_scenes_are_the_seeds_own_and_not_the_trainings() -> None:
    a, again, b = (held_out(12, 64, seed) for seed in (0, 0, 1))
    assert [s.scene for s in a] == [s.scene for s in again]
    training = np.random.default_rng([0, 0])
    assert not {s.scene for s in a} & ({s.scene for s in b} | {random_scene(training) for _ in range(200)})


def test_captions_that_training_saw_are_left_out() -> None:
    texts = frozenset(s.caption.text for s in held_out(5, 64))
    assert not texts & {s.caption.text for s in held_out(20, 64, without=texts)}


def test_a_hole_covers_all_of_the_house() -> None:
    for job in repaints(6, 64):
        house = (render(job.wanted) != job.original).any(axis=2)
        assert house.any() and not (house & ~job.mask).any()
        assert job.wanted.house in job.caption.text and not job.mask.all()


def test_a_hole_scales_with_the_picture() -> None:
    scene = next(job.wanted for job in islice(repaints(1, 64), 1))
    assert house_hole(scene, 128).mean() == pytest.approx(house_hole(scene, 64).mean(), rel=0.25)


def test_only_what_a_caption_states_is_held_against_a_picture() -> None:
    scenes = held_out(60, 64)
    truth = labels([s.scene for s in scenes])
    said = np.array([s.caption.flags() for s in scenes])
    counts = np.array([len(values) for values in ATTRIBUTES.values()])
    wrong_where_unsaid = np.where(said, truth, (truth + 1) % counts)
    figures = obedience(wrong_where_unsaid, truth, said)
    assert all(count["right"] == count["of"] for count in figures["stated"].values())
    assert figures["whole_caption"]["right"] == 60
    worst = obedience((truth + 1) % counts, truth, said)
    assert all(count["right"] == 0 for count in worst["stated"].values())


def test_things_nobody_asked_for_are_counted() -> None:
    scenes = held_out(60, 64)
    said = np.array([s.caption.flags() for s in scenes])
    everything = np.ones((60, len(ATTRIBUTES)), np.int64)
    figures = obedience(everything, labels([s.scene for s in scenes]), said)
    assert figures["there_when_asked"]["boat"]["share"] == 1
    assert figures["absent_when_not_asked"]["boat"]["share"] == 0


def test_every_task_of_every_model_is_measured(report: dict[str, Any]) -> None:
    scenes, superres = report["models"]["scenes"], report["models"]["scenes-superres"]
    assert scenes["txt2img"]["captions"] == 4 and scenes["inpaint"]["pictures"] == 2
    assert superres["superres"]["size"] == [64, 64] and superres["superres_larger"]["size"] == [256, 256]
    assert superres["superres"]["bicubic"]["psnr"] > 15
    assert scenes["inpaint"]["outside_identical"]["share"] == 1
    assert json.loads(json.dumps(report)) == report


def test_a_report_repeats(report: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = evaluate(write_tiny_models(tmp_path), AttributeClassifier().eval(), captions=4, real_pictures=6)
    assert set(again["models"]) == set(report["models"])
    assert (
        again["models"]["scenes"]["inpaint"]["seam_levels_in_originals"]
        == (report["models"]["scenes"]["inpaint"]["seam_levels_in_originals"])
    )


def test_the_card_names_every_target_that_is_missed(report: dict[str, Any]) -> None:
    card = render_card(report, {})
    missed = [target for target in targets(report) if not target.met]
    assert missed and card.count("**missed**") == len(missed)
    assert all(f"| {target.what} |" in card for target in targets(report))
    good = copy.deepcopy(report)
    for figures in good["models"].values():
        for count in figures.get("txt2img", {}).get("stated", {}).values():
            count.update(right=4, of=4, share=1.0, low=0.5, high=1.0)
        for key in {"superres", "superres_larger"} & set(figures):
            figures[key]["model"]["psnr"] = figures[key]["bicubic"]["psnr"]
    assert "**missed**" not in render_card(good, {})


def test_the_card_gives_the_trainings_recipe(report: dict[str, Any]) -> None:
    stage = {"steps": 300, "batch": 20, "learning_rate": 0.001}
    stages = {f"{name}_stage": stage for name in ("autoencoder", "text", "unet", "superres")}
    card = render_card(report, {"recipe": {"pictures": 40, "size": 64, **stages}})
    assert "| unet | 300 | 20 | 6000 | 0.001 |" in card
    assert "No `training.json`" in render_card(report, {})


def test_the_table_has_a_line_for_every_attribute(report: dict[str, Any]) -> None:
    lines = "\n".join(table(report))
    assert all(name in lines for name in ATTRIBUTES)
    assert "superres to 256 px" in lines and "seam ratio" in lines
