"""Damaged images through the door that requests use, and a share of them through the HTTP route itself.

    python -m tests.abuse.image_fuzz --inputs 20000 --seed 7

Counts what was taken and refused, and what must not be: anything raised but InvalidImage, a 5xx, a warning let out.
"""

from __future__ import annotations

import argparse
import random
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from ldm_core.errors import InvalidImage
from ldm_core.images.decoding import (
    central_square,
    flattened,
    mask_of_transparency,
    open_image,
    open_labels,
    open_mask,
    to_png,
)
from tests.abuse.corpus import SIDE, corpus
from tests.abuse.gateway import alone
from tests.abuse.mutations import mutated

HTTP_SHARE = 20  # one of so many
MAX_PIXELS = 64 * 64
ROUTES = {"image": "/v1/superres", "mask": "/v1/inpaint", "map": "/v1/semantic2img"}


@dataclass
class Findings:
    """What a run counted; `crashes` and `failures` are the seeds' numbers, with what happened."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    requests: int = 0
    slowest_s: float = 0.0
    crashes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        bad = f"{len(self.crashes)} crashes, {len(self.failures)} 5xx, {len(self.warnings)} warnings"
        doors = f"{self.inputs} inputs: {self.accepted} accepted, {self.refused} refused"
        return f"{doors}; {self.requests} also by HTTP; {bad}; slowest {self.slowest_s * 1000:.0f} ms"

    @property
    def sound(self) -> bool:
        return not (self.crashes or self.failures or self.warnings)


def check_size(field: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImage(field, f"is {width}x{height}")


def as_image(data: bytes) -> None:
    """Everything that the gateway may do with an accepted image."""
    picture = open_image(data, "image", check_size)
    mask_of_transparency(picture)
    to_png(central_square(flattened(picture), 16))


def as_mask(data: bytes) -> None:
    to_png(open_mask(data, "mask", (SIDE, SIDE)))


def as_labels(data: bytes) -> None:
    to_png(open_labels(data, "map", check_size, 200))


DOORS: Sequence[Callable[[bytes], None]] = (as_image, as_image, as_mask, as_labels)


def fuzz(inputs: int, seed: int, client: httpx.Client | None = None) -> Findings:
    """Input i depends on seed and i alone, so that one that was found can be made again."""
    findings, pictures = Findings(), corpus()
    with _caught(findings):
        for i in range(inputs):
            chance = random.Random(f"{seed}:{i}")
            data = mutated(chance, pictures)
            _through_door(findings, chance.choice(DOORS), data, i)
            if client is not None and i % HTTP_SHARE == 0:
                _through_http(findings, client, chance.choice([*ROUTES]), data, i)
    return findings


def _through_door(findings: Findings, door: Callable[[bytes], None], data: bytes, i: int) -> None:
    started = time.perf_counter()
    findings.inputs += 1
    try:
        door(data)
        findings.accepted += 1
    except InvalidImage:
        findings.refused += 1
    except Exception:
        findings.crashes.append(f"input {i}, {door.__name__}: {traceback.format_exc()[-600:]}")
    findings.slowest_s = max(findings.slowest_s, time.perf_counter() - started)


def _through_http(findings: Findings, client: httpx.Client, name: str, data: bytes, i: int) -> None:
    files = {name: ("a", data, "application/octet-stream")}
    if name == "mask":
        files["image"] = ("b", corpus()[0], "image/png")
    answer = client.post(ROUTES[name], files=files)
    findings.requests += 1
    if answer.status_code not in {202, 422}:
        findings.failures.append(f"input {i} as {name}: {answer.status_code} {answer.text[:300]}")


@contextmanager
def _caught(findings: Findings) -> Iterator[None]:
    """Collects the warnings that would have reached an operator."""
    shown = warnings.showwarning
    warnings.showwarning = lambda message, *_: findings.warnings.append(str(message))
    try:
        yield
    finally:
        warnings.showwarning = shown


def run(inputs: int, seed: int) -> Findings:
    """With a gateway of its own, whose log is looked at for warnings and tracebacks as well."""
    with alone(queue_limit=10**6) as gateway, httpx.Client(base_url=gateway.url, timeout=30) as client:
        findings = fuzz(inputs, seed, client)
        findings.warnings += [line for line in gateway.log().splitlines() if "Warning" in line or "Traceback" in line]
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    started = time.monotonic()
    findings = run(args.inputs, args.seed)
    for what in (*findings.crashes[:10], *findings.failures[:10], *findings.warnings[:10]):
        print(what)
    print(f"{findings}; {time.monotonic() - started:.0f} s")
    return int(not findings.sound)


if __name__ == "__main__":
    raise SystemExit(main())
