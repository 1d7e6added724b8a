"""One key's job beside all that another key sends, over real processes: counted in steps, which no clock disturbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.end_to_end.bodies import request
from tests.end_to_end.serving import Served, eventually

pytestmark = pytest.mark.slow

Serve = Callable[..., Served]
ALICE, BOB = "ldm_alice-0123456789", "ldm_bob-0123456789"
STEPS = 150  # of Bob's job

ATTACKS: dict[str, tuple[int, dict[str, Any]]] = {
    "urgent": (100, {"priority": "high", "steps": 1000}),
    "several images": (20, {"n": 8, "steps": 1000}),
}


def as_caller(service: Served, secret: str) -> Served:
    service.http.headers["Authorization"] = f"Bearer {secret}"
    return service


def image_steps(service: Served) -> int:
    """Steps that the caller's jobs have done, at least, over all their images."""
    jobs = service.http.get("/v1/jobs", params={"limit": 100}).raise_for_status().json()["data"]
    return sum(job["step"] * job["request"]["n"] for job in jobs)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_key_has_as_many_steps_as_another_whatever_that_sends(serve: Serve, attack: str) -> None:
    """All images are of one size: a step of one takes as long as one of another."""
    service = serve(api_keys=f"alice:{ALICE},bob:{BOB}")
    service.wait_until_ready()
    count, fields = ATTACKS[attack]
    as_caller(service, ALICE)
    for _ in range(count):
        service.submit("txt2img", **request(service, "txt2img", **fields))
    eventually(lambda: image_steps(service) > 100)
    bobs = as_caller(service, BOB).submit("txt2img", **request(service, "txt2img", steps=STEPS))
    before = image_steps(as_caller(service, ALICE))
    as_caller(service, BOB).finished(bobs["id"])
    assert image_steps(as_caller(service, ALICE)) - before <= 3 * STEPS
