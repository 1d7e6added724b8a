"""Behind a proxy that shows the server under a path, whether it takes that path away or not."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from service.settings import GatewaySettings
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess

Start = Callable[..., WorkerProcess]


@pytest.fixture(params=["kept", "stripped"])
async def proxied(gateway: Gateway, request: pytest.FixtureRequest) -> httpx.AsyncClient:
    """A client of `/ldm`, which the server gets as it is or without it."""
    http = await gateway(root_path="/ldm")

    async def strip(sent: httpx.Request) -> None:
        assert sent.url.path.startswith("/ldm/")
        if request.param == "stripped":
            sent.url = sent.url.copy_with(raw_path=sent.url.raw_path.removeprefix(b"/ldm"))

    http.event_hooks["request"].append(strip)
    return http


async def test_every_address_has_the_path(proxied: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    made = await proxied.post("/ldm/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=30"})
    assert made.status_code == 200
    job = made.json()
    own = f"/ldm/v1/jobs/{job['id']}"
    assert made.headers["location"] == own
    assert job["urls"] == {"self": own, "events": f"{own}/events", "cancel": own}
    assert job["images"][0]["url"] == f"{own}/images/0"
    assert (await proxied.get(own)).json() == job
    assert (await proxied.get("/ldm/v1/jobs")).json()["data"] == [job]
    assert (await proxied.get(job["images"][0]["url"])).content == b"x:" + str(job["images"][0]["seed"]).encode()
    assert f'"self":"{own}"' in (await proxied.get(job["urls"]["events"])).text
    image = await proxied.post("/ldm/v1/txt2img", json={"prompt": "x"}, headers={"Accept": "image/png"})
    assert image.headers["location"].startswith("/ldm/v1/jobs/")
    failed = await proxied.post("/ldm/v1/txt2img", json={"prompt": "break"}, headers={"Prefer": "wait=30"})
    assert failed.json()["error"]["instance"] == failed.headers["location"]
    assert (await proxied.delete(own)).status_code == 204


async def test_problems_methods_and_the_document_have_it(proxied: httpx.AsyncClient) -> None:
    assert assert_problem(await proxied.get("/ldm/v1/jobs/none"), 404)["instance"] == "/ldm/v1/jobs/none"
    assert assert_problem(await proxied.get("/ldm/nowhere"), 404)["instance"] == "/ldm/nowhere"
    assert (await proxied.options("/ldm/v1/models")).headers["allow"] == "GET, HEAD, OPTIONS"
    document = (await proxied.get("/ldm/openapi.json")).json()
    assert document["servers"] == [{"url": "/ldm"}]
    assert "/v1/txt2img" in document["paths"]
    assert "url: '/ldm/openapi.json'" in (await proxied.get("/ldm/docs")).text
    text = (await proxied.get("/ldm/metrics")).text
    assert 'route="/v1/jobs/{job_id}",status="404"' in text


def test_a_slash_at_its_end_and_none_at_all_are_fine() -> None:
    assert [GatewaySettings(root_path=path).root_path for path in ("/ldm/", "/a/b", "/", "")] == [
        "/ldm",
        "/a/b",
        "",
        "",
    ]


async def test_probes_need_no_path(gateway: Gateway) -> None:
    http = await gateway(root_path="/ldm")
    assert (await http.get("/healthz")).status_code == (await http.get("/ldm/healthz")).status_code == 200
    assert (await http.get("/ldmx/healthz")).status_code == 404
