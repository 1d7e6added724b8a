"""The two programs that count, in short: the same door, the same schema, fewer cases."""

from __future__ import annotations

import httpx
import pytest

from tests.abuse import image_fuzz, openapi
from tests.abuse.gateway import Gateway

pytestmark = pytest.mark.slow

LIKE_OTHERS = "/(inpaint|class2img|semantic2img|layout2img|unconditional)$"  # which the long run has


def test_damaged_pictures_are_refused_or_taken_and_nothing_else(client: httpx.Client) -> None:
    findings = image_fuzz.fuzz(500, 1, client)
    assert findings.sound, findings
    assert findings.inputs == findings.accepted + findings.refused == 500
    assert findings.accepted > 25 and findings.requests == 25


def test_every_route_keeps_to_its_schema(gateway: Gateway) -> None:
    findings = openapi.Findings()
    openapi.explore(gateway.url, findings, examples=5, seed=1, but=LIKE_OTHERS)
    assert not findings.failures, findings.samples
    assert findings.cases.total() > 500
    assert findings.statuses[202] > 50
