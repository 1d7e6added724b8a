"""What a PNG costs: milliseconds a megapixel and bytes, by encoder and level, against Pillow's default.

On a photograph-like image of 512² pixels, on one with noise, and on an image that the built-in model made.

    python -m benchmarks.png
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worker.engine.encode import encode

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUNDS = 15
PILLOW: dict[str, dict[str, Any]] = {
    "Pillow's default": {},
    "Pillow, level 1": {"compress_level": 1},
    "Pillow, level 9": {"compress_level": 9},
    "Pillow, level 1, filtered": {"compress_level": 1, "compress_type": 1},
}


def images() -> dict[str, Image.Image]:
    """What is measured."""
    photo = Image.open(EXAMPLES / "photo.png").convert("RGB").resize((512, 512), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).integers(-6, 7, (512, 512, 3))
    noisy = Image.fromarray((np.asarray(photo).astype(int) + noise).clip(0, 255).astype(np.uint8))
    return {"photo": photo, "with noise": noisy, "superres": Image.open(EXAMPLES / "superres.png").convert("RGB")}


def pillow(image: Image.Image, options: Mapping[str, Any]) -> bytes:
    """Through Pillow's own options."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def main() -> None:
    results = []
    print(f"{'':12}{'':28}{'ms/MP':>8}{'KiB':>8}{'speed':>8}{'size':>8}")
    for name, image in images().items():
        encoders = {label: lambda o=options: pillow(image, o) for label, options in PILLOW.items()}  # noqa: B023
        encoders["ours"] = lambda: encode(image, "png", None, provenance=False)  # noqa: B023
        times: dict[str, list[float]] = {label: [] for label in encoders}
        for _ in range(ROUNDS):  # in turns, so that whatever else the machine does falls on all of them
            for label, run in encoders.items():
                started = time.perf_counter()
                run()
                times[label].append(time.perf_counter() - started)
        medians = {label: statistics.median(seconds) for label, seconds in times.items()}
        sizes = {label: len(run()) for label, run in encoders.items()}
        for label in encoders:
            speed = medians["Pillow's default"] / medians[label]
            size = sizes[label] / sizes["Pillow's default"]
            per_megapixel = medians[label] * 1e3 / (image.width * image.height / 1e6)
            print(f"{name:12}{label:28}{per_megapixel:8.1f}{sizes[label] / 1024:8.0f}{speed:7.2f}x{size:7.3f}x")
            results.append(
                {"picture": name, "encoder": label, "ms_per_mp": per_megapixel, "speed": speed, "size": size}
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
