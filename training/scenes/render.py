"""Draws a scene: on a 256-pixel canvas, back to front, then box-filtered down."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from training.scenes import things
from training.scenes.palette import BEACH, GROUND, RGB, SKY, lit, mix, shade
from training.scenes.scene import Scene

CANVAS = 256
PLACE_X = {"left": 52, "middle": 128, "right": 204}
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def render(scene: Scene, size: int = 64) -> Pixels:
    """(size, size, 3) uint8; `size` divides 256. The same scene gives the same image."""
    return np.asarray(draw_canvas(scene).reduce(CANVAS // size))


def draw_canvas(scene: Scene) -> Image.Image:
    """The image at its full size, from which smaller ones are averaged."""
    rng = np.random.default_rng(scene.seed)
    horizon = int(rng.integers(132, 146))
    image = Image.fromarray(_backdrop(scene, horizon))
    draw = ImageDraw.Draw(image, "RGBA")
    if scene.time == "night":
        _stars(draw, horizon, rng)
    _sky_things(draw, scene, rng)
    _background(draw, scene, horizon, rng)
    _ground(image, draw, scene, horizon, rng)
    _ground_things(draw, scene, rng)
    return image


def _backdrop(scene: Scene, horizon: int) -> Pixels:
    return _gradient(*SKY[scene.time], horizon + 4, CANVAS)


def _gradient(top: RGB, bottom: RGB, until: int, height: int) -> Pixels:
    share = np.clip(np.arange(height, dtype=np.float32) / until, 0, 1)[:, None]
    rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share
    return np.broadcast_to(rows[:, None].astype(np.uint8), (height, CANVAS, 3)).copy()


def _stars(draw: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    for u, v, w in rng.random((36, 3)):
        x, y, r = u * CANVAS, v * (horizon - 20), 1.0 + 1.2 * w
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 230, 220))


def _sky_things(draw: ImageDraw.ImageDraw, scene: Scene, rng: np.random.Generator) -> None:
    """Every position is drawn from `rng` whether the thing is there or not, so that adding one moves nothing else."""
    jitter = rng.integers(-14, 15, 6)
    if scene.body != "none":
        things.body(draw, scene.body, scene.time, PLACE_X[scene.body_place] + jitter[0], 48 + jitter[1])
    cloud_rng = np.random.default_rng(rng.integers(2**31))
    count = {"none": 0, "few": 2, "many": 6}[scene.clouds]
    for i in range(count):  # one in each column, so that few never look like one
        x = (i + float(cloud_rng.uniform(0.2, 0.8))) * CANVAS / count
        things.cloud(draw, scene.time, int(x), int(cloud_rng.integers(22, 112)), cloud_rng)
    if scene.balloon != "none":
        things.balloon(draw, scene.balloon, scene.time, PLACE_X[scene.balloon_place] + jitter[2], 56 + jitter[3])


def _background(draw: ImageDraw.ImageDraw, scene: Scene, horizon: int, rng: np.random.Generator) -> None:
    haze = SKY[scene.time][1]
    steps = np.random.default_rng(rng.integers(2**31))
    if scene.background == "mountains":
        things.mountains(draw, scene.time, horizon, haze, steps)
    elif scene.background == "hills":
        for back, colour in ((26, (120, 160, 110)), (12, (96, 146, 84))):
            base = mix(lit(colour, scene.time), haze, 0.25 if back == 26 else 0.08)
            x = np.arange(-8, CANVAS + 9, 4)
            waves = (
                np.sin(x / steps.uniform(26, 44) + steps.uniform(0, 6)) * 11 + np.sin(x / 19 + steps.uniform(0, 6)) * 4
            )
            y = horizon - back - waves
            draw.polygon(
                [(-8, horizon + 2), *zip(x.tolist(), y.tolist(), strict=True), (CANVAS + 8, horizon + 2)], fill=base
            )


def _ground(
    image: Image.Image, draw: ImageDraw.ImageDraw, scene: Scene, horizon: int, rng: np.random.Generator
) -> None:
    far, near = (lit(colour, scene.time) for colour in GROUND[scene.ground])
    image.paste(Image.fromarray(_gradient(far, near, CANVAS - horizon, CANVAS - horizon)), (0, horizon))
    detail = np.random.default_rng(rng.integers(2**31))
    if scene.ground == "sea":
        _sea(draw, scene, horizon, detail)
        return
    for _ in range(9):
        y = float(detail.uniform(horizon + 6, CANVAS - 6))
        x, width = float(detail.uniform(0, CANVAS)), float(detail.uniform(0.5, 1)) * (y - horizon + 16)
        tone = shade(near, 0.93 if detail.random() < 0.5 else 1.06)
        draw.ellipse((x - width, y - width * 0.07, x + width, y + width * 0.07), fill=tone)
    if scene.ground == "field":
        for _ in range(26):
            x, y = float(detail.uniform(0, CANVAS)), float(detail.uniform(horizon + 14, CANVAS))
            tint = ((250, 240, 120), (250, 250, 250), (236, 120, 140))[detail.integers(3)]
            draw.ellipse((x - 1.8, y - 1.8, x + 1.8, y + 1.8), fill=lit(tint, scene.time))


def _sea(draw: ImageDraw.ImageDraw, scene: Scene, horizon: int, detail: np.random.Generator) -> None:
    """Bands of light on the water, the glitter below sun or moon, a beach in front."""
    glint = mix(lit(GROUND["sea"][0], scene.time), SKY[scene.time][1], 0.55)
    for _ in range(18):
        y = float(detail.uniform(horizon + 3, 206))
        x, width = float(detail.uniform(0, CANVAS)), float(detail.uniform(6, 12)) * (1 + (y - horizon) / 40)
        draw.line((x - width, y, x + width, y), fill=glint, width=2)
    if scene.body != "none":
        x0 = PLACE_X[scene.body_place]
        bright = (255, 236, 170) if scene.body == "sun" else (226, 232, 250)
        for i in range(9):
            y, width = horizon + 4 + i * 6.5, float(detail.uniform(8, 18))
            draw.line((x0 - width, y, x0 + width, y), fill=(*bright, 190), width=3)
    along = np.arange(-8, CANVAS + 9, 8)
    shore = 206 + np.sin(along / 30 + detail.uniform(0, 6)) * 4
    sand = [lit(colour, scene.time) for colour in BEACH]
    line = list(zip(along.tolist(), shore.tolist(), strict=True))
    draw.polygon([(-8, CANVAS), *line, (CANVAS + 8, CANVAS)], fill=sand[0])
    draw.line(line, fill=lit((250, 250, 250), scene.time), width=3)
    draw.polygon([(-8, CANVAS), *[(a, b + 22) for a, b in line], (CANVAS + 8, CANVAS)], fill=sand[1])


def _ground_things(draw: ImageDraw.ImageDraw, scene: Scene, rng: np.random.Generator) -> None:
    jitter = rng.integers(-9, 10, 6)
    grow = rng.uniform(0.92, 1.08, 3)
    if scene.boat != "none":
        things.boat(
            draw, scene.boat, scene.time, PLACE_X[scene.boat_place] + int(jitter[0]), 190 + jitter[1] // 2, grow[0]
        )
    if scene.tree != "none":
        x, y = PLACE_X[scene.tree_place] + int(jitter[2]), 226 + int(jitter[3]) // 2
        things.TREES[scene.tree](draw, scene.time, x, y, grow[1])
    if scene.house != "none":
        scale = grow[2] * (1.0 if scene.house_size == "big" else 0.66)
        x, y = PLACE_X[scene.house_place] + int(jitter[4]), 226 + int(jitter[5]) // 2
        things.house(draw, scene.house, scene.time, x, y, scale)
