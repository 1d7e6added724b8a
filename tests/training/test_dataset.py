"""The drawn training set: resumable shard by shard, and disjoint for different seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.scenes import dataset
from training.scenes.captions import Caption
from training.scenes.scene import ATTRIBUTES


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dataset, "SHARD", 4)
    dataset.draw(tmp_path, 10, seed=3, size=64)
    return tmp_path


def test_drawing_again_draws_only_what_is_missing_and_the_same(drawn: Path) -> None:
    before = dataset.load(drawn)
    first, lost, last = sorted(drawn.glob("*.npz"))
    lost.unlink()
    untouched = [file.stat().st_mtime_ns for file in (first, last)]
    dataset.draw(drawn, 10, seed=3, size=64)
    after = dataset.load(drawn)
    assert [file.stat().st_mtime_ns for file in (first, last)] == untouched
    assert np.array_equal(before.pictures, after.pictures) and before.captions == after.captions


def test_rows_belong_together(drawn: Path) -> None:
    data = dataset.load(drawn)
    assert data.pictures.shape == (10, 64, 64, 3) and data.labels.shape == (10, len(ATTRIBUTES))
    assert data.stated.shape == (10, len(data.captions[0]), len(ATTRIBUTES))
    times = list(ATTRIBUTES).index("time")
    for labels, captions, stated in zip(data.labels, data.captions, data.stated, strict=True):
        for text, flags in zip(captions, stated, strict=True):
            said = Caption(text, frozenset(n for n, flag in zip(ATTRIBUTES, flags, strict=True) if flag))
            if ATTRIBUTES["time"][labels[times]] == "sunset" and "time" in said.stated:
                assert any(word in text for word in ("sunset", "evening", "dusk"))


def test_a_half_written_shard_does_not_count(drawn: Path) -> None:
    (drawn / "00009.partial.npz").write_bytes(b"PK")
    assert len(dataset.load(drawn).pictures) == 10


def test_another_seed_gives_other_scenes(drawn: Path, tmp_path: Path) -> None:
    dataset.draw(tmp_path / "other", 10, seed=4, size=64)
    other = dataset.load(tmp_path / "other")
    assert not any(np.array_equal(a, b) for a in dataset.load(drawn).pictures for b in other.pictures)
