"""Images and captions on disk: drawn once by several processes, shard by shard, so that drawing resumes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from training.scenes.captions import caption
from training.scenes.render import CANVAS, Pixels, draw_canvas
from training.scenes.scene import random_scene

logger = logging.getLogger(__name__)

SHARD = 1000
CAPTIONS = 5


@dataclass(frozen=True, slots=True)
class SceneData:
    """N images and details (N, S, S, 3) uint8, labels (N, A) uint8, K captions each, what each states (N, K, A) bool.

    A detail is a window of the image at full size: what enlarging the whole image has to look like close by.
    """

    pictures: Pixels
    details: Pixels
    labels: Pixels
    captions: list[list[str]]
    stated: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def draw(directory: Path, count: int, seed: int, size: int, workers: int = 1) -> None:
    """Draws what is missing of `count` images. Two seeds never give the same scene."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = range(-(-count // SHARD))
    todo = [
        (directory / f"{i:05d}.npz", min(SHARD, count - i * SHARD), seed, i, size)
        for i in shards
        if not (directory / f"{i:05d}.npz").exists()
    ]
    with get_context("spawn").Pool(workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(_draw_shard, todo), 1):
            logger.info("data  %d/%d shards", len(shards) - len(todo) + done, len(shards))


def _draw_shard(task: tuple[Path, int, int, int, int]) -> None:
    file, count, seed, index, size = task
    rng = np.random.default_rng([seed, index])
    scenes = [random_scene(rng) for _ in range(count)]
    captions = [[caption(scene, rng) for _ in range(CAPTIONS)] for scene in scenes]
    canvases = [draw_canvas(scene) for scene in scenes]
    corners = rng.integers(0, CANVAS - size + 1, (count, 2))
    windows = [c.crop((x, y, x + size, y + size)) for c, (x, y) in zip(canvases, corners.tolist(), strict=True)]
    partial = file.with_suffix(".partial.npz")
    np.savez(
        partial,
        pictures=np.stack([np.asarray(canvas.reduce(CANVAS // size)) for canvas in canvases]),
        details=np.stack([np.asarray(window) for window in windows]),
        labels=np.array([scene.labels() for scene in scenes], dtype=np.uint8),
        captions=np.array(json.dumps([[c.text for c in group] for group in captions])),
        stated=np.array([[c.flags() for c in group] for group in captions]),
    )
    partial.replace(file)


def load(directory: Path) -> SceneData:
    """Everything that `draw` put into `directory`."""
    shards = [np.load(file) for file in sorted(directory.glob("[0-9]*[0-9].npz"))]
    captions = [group for shard in shards for group in json.loads(str(shard["captions"]))]
    arrays = {key: np.concatenate([s[key] for s in shards]) for key in ("pictures", "details", "labels", "stated")}
    return SceneData(captions=captions, **arrays)
