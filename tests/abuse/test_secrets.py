"""A whole service, its jobs finished, failed and refused: no log and no metric ever holds what a prompt said."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.abuse.gateway import Gateway
from tests.end_to_end.serving import Served, base64_picture, eventually
from tests.tiny import write_tiny_models
from tests.worker.processes import WorkerProcess

pytestmark = pytest.mark.slow

MARK = "marker-8675309"
HEADERS = {"Authorization": f"Bearer key-{MARK}", "Cookie": f"session={MARK}", "Idempotency-Key": f"{MARK}"}


def test_prompts_stay_out_of_logs_and_metrics(tmp_path: Path) -> None:
    service = Served(tmp_path / "data", write_tiny_models(tmp_path / "models"), log_format="json")
    try:
        service.wait_until_ready()
        use(service)
        gateway, worker = service.metrics()
    finally:
        service.stop()
    log = service.log() + "".join(path.read_text() for path in service.data_dir.rglob("*.log"))
    assert MARK not in log
    assert base64.b64encode(MARK.encode()).decode()[:12] not in log
    assert MARK not in gateway + worker
    assert '"message": "txt2img succeeded' in log  # it was not silent


def use(service: Served) -> None:
    """Jobs that succeed, are cancelled and refused, each with the mark wherever a client can write."""
    fields = {"prompt": f"a house {MARK}", "negative_prompt": MARK, "metadata": {MARK: MARK}}
    ended = service.finished(service.submit("txt2img", **fields)["id"])
    assert ended["status"] == "succeeded"
    assert ended["request"]["prompt"] == fields["prompt"]
    picture = base64_picture(64, 64)
    ended = service.finished(service.submit("inpaint", **fields, image=picture, mask=base64_picture(64, 64, "L"))["id"])
    assert ended["status"] == "succeeded"
    long = service.submit("txt2img", **fields, steps=1000)
    service.http.delete(f"/v1/jobs/{long['id']}")
    for wrong in ({"steps": MARK}, {MARK: 1}, {"sampler": MARK}, {"model": MARK}, {"image": MARK}, {"seed": -1}):
        answer = service.http.post("/v1/txt2img", json={**fields, **wrong})
        assert answer.status_code == 422, answer.text
    broken = f'{{"prompt": "{MARK}"'.encode()
    assert service.http.post("/v1/txt2img", content=broken, headers={"Content-Type": "application/json"}).is_error
    service.http.post("/v1/txt2img", json=fields | {"seed": 1}, headers=HEADERS)
    service.http.get("/v1/models", headers=HEADERS)


def test_a_job_that_fails_on_the_worker_says_why_without_its_prompt(
    tmp_path: Path, start_worker: Callable[..., WorkerProcess], start_gateway: Callable[..., Gateway]
) -> None:
    worker, gateway = start_worker(), start_gateway()
    body = {"prompt": "break", "model": "toy", "negative_prompt": MARK, "metadata": {"a": MARK}}
    made = httpx.post(f"{gateway.url}/v1/txt2img", json=body, headers={"Prefer": "wait=30"}, timeout=40)
    assert made.json()["status"] == "failed", made.text
    eventually(lambda: "failed" in worker.log.read_text(), 10)
    assert "told to break" in worker.log.read_text()
    assert MARK not in worker.log.read_text() + gateway.log()
