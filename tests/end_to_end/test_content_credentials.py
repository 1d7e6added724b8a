"""Signed images of a whole service: every answer has the same credentials, which hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.serving import Served
from tests.worker.test_content_credentials import Files

pytestmark = pytest.mark.slow


def test_equal_requests_are_equal_bytes_also_signed(serve: Callable[..., Served], tmp_path: Path) -> None:
    files = Files(tmp_path)
    service = serve(c2pa_cert=files.chain, c2pa_key=files.key)
    service.wait_until_ready()
    for form in ("png", "jpeg", "webp"):
        jobs = [service.submit("txt2img", prompt="a pine in the snow", seed=7, steps=2, format=form) for _ in range(2)]
        first, second = (service.image(service.finished(job["id"])["id"]) for job in jobs)
        assert first == second and files.read(first, f"image/{form}")[1] == "Trusted"
