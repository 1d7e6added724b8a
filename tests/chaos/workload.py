"""What the clients ask for: a seeded mix of tasks, samplers, sizes of jobs and priorities."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tests.end_to_end.serving import base64_picture

SIDE, SCALE = 64, 4
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("txt2img", {"sampler": "ddim"}),
    ("txt2img", {"sampler": "ddim", "eta": 1.0}),
    ("txt2img", {"sampler": "dpmpp_2m"}),
    ("txt2img", {"sampler": "plms"}),
    ("txt2img", {"sampler": "euler_a"}),
    ("inpaint", {"sampler": "ddim"}),
    ("inpaint", {"sampler": "euler_a"}),
    ("superres", {"sampler": "ddim"}),
    ("superres", {"sampler": "dpmpp_2m"}),
)
DISTINCT = 4 * len(KINDS)
PROMPTS = ("a red house by the sea at sunset", "a pine in the snow at night", "a blue boat, mountains behind")


@dataclass(frozen=True, slots=True)
class Order:
    """One client's request. Orders with the same `kind` ask for the same images; `key` is this one's alone."""

    key: str
    kind: int
    task: str
    body: dict[str, Any]


def orders(count: int, seed: int, steps: tuple[int, int] = (5, 15)) -> Iterator[Order]:
    """`count` of them; the kinds come round again and again, each time with another priority."""
    rng = random.Random(seed)
    for i in range(count):
        kind = i % DISTINCT
        key = str(UUID(int=rng.getrandbits(128), version=4))
        task, body = _asked(kind, steps)
        yield Order(
            key, kind, task, body | {"priority": rng.choice(["low", "normal", "high"]), "metadata": {"key": key}}
        )


def _asked(kind: int, steps: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """The same for the same kind, in every run."""
    rng = random.Random(kind)
    task, fields = KINDS[kind % len(KINDS)]
    body: dict[str, Any] = {"seed": rng.randrange(2**32), "steps": rng.randint(*steps), "n": rng.choice([1, 1, 2])}
    if task != "superres":
        body |= {"prompt": rng.choice(PROMPTS), "guidance_scale": rng.choice([1.0, 3.0])}
    if task == "superres":
        body |= {"image": base64_picture(SIDE // SCALE, SIDE // SCALE)}
    if task == "inpaint":
        body |= {"image": base64_picture(SIDE, SIDE), "mask": base64_picture(SIDE, SIDE, "L")}
    return task, body | fields
