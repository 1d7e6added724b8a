"""The attribute classifier: it learns, is stored small, and refuses another table of attributes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.classifier import (
    AttributeClassifier,
    accuracies,
    augmented,
    load_classifier,
    save_classifier,
    train_classifier,
)
from training.evaluate import BUILTIN
from training.held_out import held_out, labels
from training.scenes.scene import ATTRIBUTES


def test_it_learns_to_tell_the_time_of_day() -> None:
    scenes = held_out(96, 64, seed=7)
    pictures, truth = np.stack([s.picture for s in scenes]), labels([s.scene for s in scenes])
    model = train_classifier(torch.from_numpy(pictures), torch.from_numpy(truth).long(), steps=40, batch=32)
    assert accuracies(model.read(pictures), truth)["time"] > 0.9


def test_stored_in_half_precision_it_reads_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AttributeClassifier().eval()
    pictures = np.stack([s.picture for s in held_out(8, 64)])
    save_classifier(model, tmp_path / "c.safetensors")
    stored = load_classifier(tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").stat().st_size < 1_000_000
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    for ours, theirs in zip(model(x), stored(x), strict=True):
        assert torch.allclose(ours, theirs, atol=0.01)


def test_other_attributes_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    save_classifier(AttributeClassifier(), file)
    other = {**{name: list(values) for name, values in ATTRIBUTES.items()}, "time": ["day", "dawn"]}
    save_file(load_file(file), file, metadata={"attributes": json.dumps(other)})
    with pytest.raises(ValueError, match=r"c\.safetensors reads other attributes"):
        load_classifier(file)


@pytest.mark.parametrize("size", [32, 128, 256])
def test_pictures_of_other_sizes_are_brought_to_its_own(size: int) -> None:
    torch.manual_seed(0)
    model = AttributeClassifier().eval()
    plain = np.broadcast_to(np.array([200, 90, 40], np.uint8), (2, size, size, 3)).copy()
    assert np.array_equal(model.read(plain), model.read(plain[:, :1, :1].repeat(64, axis=1).repeat(64, axis=2)))


def test_augmentation_keeps_the_shape_and_stays_near() -> None:
    x = torch.zeros(4, 3, 64, 64)
    assert augmented(x).shape == x.shape and augmented(x).abs().max() < 1


def test_the_shipped_one_reads_drawn_pictures() -> None:
    scenes = held_out(300, 64, seed=11)
    found = load_classifier(BUILTIN / "classifier.safetensors").read(np.stack([s.picture for s in scenes]))
    assert np.mean(list(accuracies(found, labels([s.scene for s in scenes])).values())) > 0.97
