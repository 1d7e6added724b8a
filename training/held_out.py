"""Scenes, images and captions that no training run has seen, made anew from a seed of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from training.quality import Mask, Pixels
from training.scenes.captions import Caption, caption
from training.scenes.render import render
from training.scenes.scene import ATTRIBUTES, COLOURS, Scene, random_scene

HELD_OUT_SEED = 1_000_000_007  # training draws from seed 0


@dataclass(frozen=True, slots=True)
class HeldOut:
    """An unseen scene, its image (size, size, 3) and one caption."""

    scene: Scene
    picture: Pixels
    caption: Caption


@dataclass(frozen=True, slots=True)
class Repaint:
    """An image with a hole over its house, and a caption that asks for a house of another colour there."""

    original: Pixels
    mask: Mask  # True is to be painted anew
    wanted: Scene
    caption: Caption


def held_out(count: int, size: int, seed: int = 0, without: frozenset[str] = frozenset()) -> list[HeldOut]:
    """`count` scenes whose captions are not among the texts `without`."""
    rng = np.random.default_rng([HELD_OUT_SEED, seed])
    found: list[HeldOut] = []
    while len(found) < count:
        scene = random_scene(rng)
        said = caption(scene, rng)
        if said.text not in without:
            found.append(HeldOut(scene, render(scene, size), said))
    return found


def repaints(count: int, size: int, seed: int = 0) -> list[Repaint]:
    return [task for task, _ in zip(_repaints(size, seed), range(count), strict=False)]


def _repaints(size: int, seed: int) -> Iterator[Repaint]:
    rng = np.random.default_rng([HELD_OUT_SEED, seed, 1])
    while True:
        scene = random_scene(rng)
        if scene.house == "none":
            continue
        others = [colour for colour in COLOURS if colour not in ("none", scene.house)]
        wanted = replace(scene, house=others[rng.integers(len(others))])
        said = caption(wanted, rng)
        if "house" in said.stated:
            yield Repaint(render(scene, size), house_hole(scene, size), wanted, said)


def house_hole(scene: Scene, size: int) -> Mask:
    """A rectangle over all that the house changes in the image, with a margin of one pixel in sixteen."""
    empty = replace(scene, house="none", house_size="none", house_place="none")
    changed = (render(scene, size) != render(empty, size)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    margin = size // 16
    mask = np.zeros((size, size), dtype=np.bool_)
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    mask[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1] = True
    return mask


def labels(scenes: list[Scene]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(N, A), in the order of ATTRIBUTES."""
    return np.array([scene.labels() for scene in scenes], dtype=np.uint8).reshape(-1, len(ATTRIBUTES))
