"""Pictures and captions on disk: drawn once by several processes, shard by shard, so that drawing resumes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ldm_core.training.scenes.captions import caption
from ldm_core.training.scenes.render import Pixels, render
from ldm_core.training.scenes.scene import random_scene

logger = logging.getLogger(__name__)

SHARD = 1000
CAPTIONS = 5


@dataclass(frozen=True, slots=True)
class SceneData:
    """N pictures (N, S, S, 3) uint8, labels (N, A) uint8, K captions each and what each states (N, K, A) bool."""

    pictures: Pixels
    labels: Pixels
    captions: list[list[str]]
    stated: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def draw(directory: Path, count: int, seed: int, size: int, workers: int = 1) -> None:
    """Draws what is missing of `count` pictures. Two seeds never give the same scene."""
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
    partial = file.with_suffix(".partial.npz")
    np.savez(
        partial,
        pictures=np.stack([render(scene, size) for scene in scenes]),
        labels=np.array([scene.labels() for scene in scenes], dtype=np.uint8),
        captions=np.array(json.dumps([[c.text for c in group] for group in captions])),
        stated=np.array([[c.flags() for c in group] for group in captions]),
    )
    partial.replace(file)


def load(directory: Path) -> SceneData:
    """Everything that `draw` put into `directory`."""
    shards = [np.load(file) for file in sorted(directory.glob("[0-9]*[0-9].npz"))]
    captions = [group for shard in shards for group in json.loads(str(shard["captions"]))]
    pictures, labels, stated = (np.concatenate([s[key] for s in shards]) for key in ("pictures", "labels", "stated"))
    return SceneData(pictures, labels, captions, stated)
