"""Our PNG files say what the images were, whatever those are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worker.engine.png import filtered, png

KINDS = ("noise", "flat", "gradient", "steps")


def pixels(kind: str, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * 1000 + width)
    match kind:
        case "noise":
            return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        case "flat":
            return np.full((height, width, 3), 200, np.uint8)
        case "gradient":
            across = np.linspace(0, 255, width)[None, :, None] + np.linspace(0, 200, height)[:, None, None]
            return (across + np.zeros(3)).astype(np.uint8)
        case _:
            return random.choice(np.array([0, 127, 128, 255], np.uint8), (height, width, 3))


@given(kind=st.sampled_from(KINDS), height=st.integers(1, 200), width=st.integers(1, 40))
def test_it_reads_back_as_it_was(kind: str, height: int, width: int) -> None:
    expected = pixels(kind, height, width)
    read = Image.open(io.BytesIO(png(Image.fromarray(expected))))
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), expected)


@pytest.mark.parametrize("text", ["", "plain", "Zürich 東京 🏔", "line\nbreak"])
def test_a_text_travels_in_it(text: str) -> None:
    read = Image.open(io.BytesIO(png(Image.new("RGB", (8, 8)), ("parameters", text))))
    read.load()
    assert read.info["parameters"] == text


def test_each_row_takes_the_filter_of_the_smallest_differences() -> None:
    """Against the specification, byte by byte, over the edge of what is filtered at once."""
    picture = np.concatenate([pixels(kind, 40, 12) for kind in KINDS])
    rows = filtered(picture)
    before = [0] * (12 * 3)
    for found, row in zip(rows.tolist(), picture.reshape(len(picture), -1).tolist(), strict=True):
        candidates = {kind: differences(kind, row, before) for kind in (1, 2, 3, 4)}
        assert found[1:] == candidates[found[0]]
        sizes = {kind: sum(min(d, 256 - d) for d in candidate) for kind, candidate in candidates.items()}
        assert sizes[found[0]] == min(sizes.values())
        before = row


def differences(kind: int, row: list[int], before: list[int]) -> list[int]:
    """PNG specification, section 9.2."""
    result = []
    for i, value in enumerate(row):
        a, b, c = (row[i - 3], before[i], before[i - 3]) if i >= 3 else (0, before[i], 0)
        match kind:
            case 1:
                predicted = a
            case 2:
                predicted = b
            case 3:
                predicted = (a + b) // 2
            case _:
                p = a + b - c
                predicted = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        result.append((value - predicted) % 256)
    return result
