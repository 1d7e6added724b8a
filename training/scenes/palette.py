"""Colours of the landscapes by time of day, as RGB in 0..255."""

from __future__ import annotations

import numpy as np

RGB = tuple[int, int, int]

SKY: dict[str, tuple[RGB, RGB]] = {  # zenith, horizon
    "day": ((84, 158, 230), (205, 232, 250)),
    "sunset": ((86, 70, 140), (255, 166, 92)),
    "night": ((10, 14, 42), (44, 56, 104)),
}
LIGHT: dict[str, tuple[float, float, float]] = {  # multiplies everything below the sky
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.82, 0.72),
    "night": (0.46, 0.52, 0.74),
}
GROUND: dict[str, tuple[RGB, RGB]] = {  # far, near
    "sea": ((70, 150, 196), (28, 96, 158)),
    "field": ((156, 198, 92), (84, 150, 60)),
    "desert": ((238, 204, 138), (214, 164, 92)),
    "snow": ((238, 244, 250), (212, 224, 238)),
}
BEACH: tuple[RGB, RGB] = ((236, 216, 164), (216, 190, 132))
THING: dict[str, RGB] = {
    "red": (214, 48, 44),
    "blue": (46, 92, 214),
    "yellow": (250, 206, 40),
    "white": (246, 246, 242),
    "green": (40, 160, 76),
    "purple": (148, 62, 190),
}


def lit(colour: RGB, time: str, share: float = 1.0) -> RGB:
    """A colour under the light of the time of day; `share` < 1 keeps some of its own."""
    light = [1 - share + share * factor for factor in LIGHT[time]]
    r, g, b = (int(min(255, channel * factor)) for channel, factor in zip(colour, light, strict=True))
    return r, g, b


def shade(colour: RGB, factor: float) -> RGB:
    r, g, b = (int(np.clip(channel * factor, 0, 255)) for channel in colour)
    return r, g, b


def mix(a: RGB, b: RGB, share: float) -> RGB:
    r, g, b_ = (int(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, b_
