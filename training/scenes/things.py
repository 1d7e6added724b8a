"""The things in a landscape, each drawn at (x, y) of the 256-pixel canvas: its foot, or its middle in the sky."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL.ImageDraw import ImageDraw

from training.scenes.palette import RGB, THING, lit, mix, shade

OBJECT_LIGHT = 0.55  # coloured things keep part of their own colour at night, or nobody could name it


def body(draw: ImageDraw, kind: str, time: str, x: int, y: int) -> None:
    """Sun, low and red at sunset, or a crescent moon."""
    if kind == "moon":
        for r, alpha in ((34, 26), (27, 40)):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(230, 236, 255, alpha))
        draw.ellipse((x - 19, y - 19, x + 19, y + 19), fill=(244, 244, 224))
        draw.ellipse((x - 9, y - 24, x + 27, y + 12), fill=(20, 26, 60))
        return
    y, core = (y + 30, (255, 96, 52)) if time == "sunset" else (y, (255, 226, 74))
    glow = mix(core, (255, 240, 190), 0.5)
    for r, alpha in ((40, 34), (33, 54), (27, 90)):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*glow, alpha))
    draw.ellipse((x - 21, y - 21, x + 21, y + 21), fill=core)


def cloud(draw: ImageDraw, time: str, x: int, y: int, rng: np.random.Generator) -> None:
    white: RGB = {"day": (255, 255, 255), "sunset": (255, 206, 186), "night": (92, 102, 142)}[time]
    for dx, dy, r in ((-22, 3, 11), (-8, -4, 15), (9, -2, 13), (23, 4, 9)):
        half = r + float(rng.uniform(-2, 3))
        draw.ellipse((x + dx - half, y + dy - half * 0.8, x + dx + half, y + dy + half * 0.8), fill=white)
    draw.rounded_rectangle((x - 32, y + 2, x + 32, y + 12), 5, fill=shade(white, 0.95))


def mountains(draw: ImageDraw, time: str, horizon: int, haze: RGB, rng: np.random.Generator) -> None:
    """Two ranges with snow on the peaks."""
    for height, count, share in ((64, 4, 0.35), (46, 5, 0.1)):
        rock = mix(lit((108, 112, 134), time), haze, share)
        snow = mix(lit((248, 250, 255), time), haze, share)
        for i in range(count):
            x = (i + float(rng.uniform(0.1, 0.9))) * 256 / count
            top, half = height * float(rng.uniform(0.75, 1.1)), height * float(rng.uniform(0.95, 1.3))
            peak = horizon - top
            draw.polygon([(x - half, horizon + 2), (x, peak), (x + half, horizon + 2)], fill=rock)
            draw.polygon([(x, peak), (x + half, horizon + 2), (x + half * 0.25, horizon + 2)], fill=shade(rock, 0.82))
            cap, bite = top * 0.34, half * 0.34
            zigzag = [(x + bite, peak + cap), (x + bite * 0.4, peak + cap * 0.8), (x, peak + cap * 1.2)]
            draw.polygon([(x, peak), *zigzag, (x - bite * 0.5, peak + cap * 0.8), (x - bite, peak + cap)], fill=snow)


def house(draw: ImageDraw, colour: str, time: str, x: int, y: int, scale: float) -> None:
    wall = lit(THING[colour], time, OBJECT_LIGHT)
    roof = lit((112, 70, 54) if colour != "red" else (78, 64, 66), time, OBJECT_LIGHT)
    w, h, r = 36 * scale, 50 * scale, 32 * scale
    draw.rectangle((x + w * 0.45, y - h - r * 1.05, x + w * 0.7, y - h - r * 0.2), fill=shade(roof, 0.8))
    draw.rectangle((x - w, y - h, x + w, y), fill=wall)
    draw.rectangle((x + w * 0.62, y - h, x + w, y), fill=shade(wall, 0.86))
    draw.polygon(
        [(x - w * 1.2, y - h), (x - w * 0.55, y - h - r), (x + w * 0.55, y - h - r), (x + w * 1.2, y - h)], fill=roof
    )
    draw.rectangle((x - w * 0.18, y - h * 0.55, x + w * 0.2, y), fill=lit((92, 58, 40), time, OBJECT_LIGHT))
    glass: RGB = {"day": (176, 216, 240), "sunset": (255, 214, 130), "night": (255, 224, 120)}[time]
    for left in (-0.78, 0.4):
        box = (x + w * left, y - h * 0.72, x + w * (left + 0.38), y - h * 0.32)
        draw.rectangle(box, fill=glass, outline=lit((250, 250, 250), time), width=2)


def oak(draw: ImageDraw, time: str, x: int, y: int, scale: float) -> None:
    trunk, leaf = lit((106, 72, 46), time), lit((62, 140, 58), time)
    draw.rectangle((x - 5 * scale, y - 42 * scale, x + 5 * scale, y), fill=trunk)
    for dx, dy, radius in ((-15, -50, 20), (15, -50, 20), (0, -68, 23), (0, -48, 20)):
        cx, cy, r = x + dx * scale, y + dy * scale, radius * scale
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=leaf)
    draw.ellipse((x - 14 * scale, y - 82 * scale, x + 6 * scale, y - 64 * scale), fill=shade(leaf, 1.16))


def pine(draw: ImageDraw, time: str, x: int, y: int, scale: float) -> None:
    leaf = lit((28, 96, 66), time)
    draw.rectangle((x - 5 * scale, y - 18 * scale, x + 5 * scale, y), fill=lit((94, 64, 42), time))
    for i, half in enumerate((31, 25, 18)):
        top, foot = y - (52 + 25 * i) * scale, y - (12 + 25 * i) * scale
        draw.polygon([(x - half * scale, foot), (x, top), (x + half * scale, foot)], fill=shade(leaf, 1 + 0.1 * i))


def palm(draw: ImageDraw, time: str, x: int, y: int, scale: float) -> None:
    trunk, leaf = lit((150, 110, 66), time), lit((54, 156, 72), time)
    top = (x + 10 * scale, y - 76 * scale)
    draw.polygon(
        [(x - 6 * scale, y), (x + 6 * scale, y), (top[0] + 4 * scale, top[1]), (top[0] - 4 * scale, top[1])], fill=trunk
    )
    for angle in (-2.9, -2.3, -1.57, -0.85, -0.25, 0.35, 2.8):
        tip = (top[0] + np.cos(angle) * 37 * scale, top[1] + (np.sin(angle) * 18 + 12) * scale)
        bow = (top[0] + np.cos(angle) * 20 * scale, top[1] + (np.sin(angle) * 22 - 3) * scale)
        draw.line([top, bow, tip], fill=leaf, width=max(3, int(9 * scale)), joint="curve")
    draw.ellipse((top[0] - 6, top[1] - 2, top[0] + 6, top[1] + 9), fill=shade(trunk, 0.7))


def boat(draw: ImageDraw, colour: str, time: str, x: int, y: int, scale: float) -> None:
    """The hull and a stripe of the sail have the boat's colour."""
    hull, sail = lit(THING[colour], time, OBJECT_LIGHT), lit((250, 248, 240), time, OBJECT_LIGHT)
    w = 31 * scale
    draw.line((x, y - 12 * scale, x, y - 62 * scale), fill=lit((92, 66, 48), time), width=4)
    draw.polygon([(x + 4, y - 60 * scale), (x + 4, y - 18 * scale), (x + 29 * scale, y - 18 * scale)], fill=sail)
    draw.polygon(
        [(x - 3, y - 54 * scale), (x - 3, y - 18 * scale), (x - 20 * scale, y - 18 * scale)], fill=shade(sail, 0.92)
    )
    draw.polygon(
        [(x - w, y - 16 * scale), (x + w, y - 16 * scale), (x + w * 0.7, y + 2), (x - w * 0.7, y + 2)], fill=hull
    )
    draw.line((x - w, y - 14 * scale, x + w, y - 14 * scale), fill=shade(hull, 0.75), width=3)


def balloon(draw: ImageDraw, colour: str, time: str, x: int, y: int) -> None:
    skin = lit(THING[colour], time, OBJECT_LIGHT)
    draw.line((x - 13, y + 16, x - 6, y + 36), fill=(80, 60, 50), width=2)
    draw.line((x + 13, y + 16, x + 6, y + 36), fill=(80, 60, 50), width=2)
    draw.polygon([(x - 21, y + 8), (x + 21, y + 8), (x + 7, y + 27), (x - 7, y + 27)], fill=skin)
    draw.ellipse((x - 25, y - 28, x + 25, y + 20), fill=skin)
    draw.ellipse((x - 9, y - 28, x + 9, y + 21), fill=shade(skin, 0.84))
    draw.rectangle((x - 7, y + 34, x + 7, y + 43), fill=lit((120, 84, 52), time))


TREES: dict[str, Callable[[ImageDraw, str, int, int, float], None]] = {"oak": oak, "pine": pine, "palm": palm}
