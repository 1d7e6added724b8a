"""What HTTP says of methods, `Accept`, encodings and paths; and what forms and JSON mean by nothing."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Callable

import httpx
import pytest

from service.http.negotiation import Accept
from tests.abuse.gateway import Gateway as Process
from tests.service.problems import assert_problem
from tests.worker.processes import WorkerProcess

Start = Callable[..., WorkerProcess]
JSON = "application/json"
OFFERS = [JSON, "image/png", "image/jpeg", "image/webp"]
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", JSON), ("*/*", JSON), ("*", JSON), (JSON, JSON), ("application/*", JSON), ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"), ("image/*", "image/png"), ("image/jpg", "image/jpeg"),
        ("image/png;q=0.1, application/json", JSON), ("image/png;q=0.1, application/json;q=.05", "image/png"),
        ("image/png, */*", "image/png"), ("*/*, image/webp", "image/webp"), ("image/*, */*", "image/png"),
        ("application/json, image/png", JSON), ("image/png, application/json", "image/png"),
        ("image/webp;q=0.5, image/jpeg;q=0.9", "image/jpeg"), ("image/*;q=0.5, image/webp", "image/webp"),
        ("image/png;q=0, image/*", "image/jpeg"), ("image/png;q=0, */*", JSON),
        ("*/*, application/json;q=0", "image/png"),
        ("image/png;q=0", None), ("text/html", None), ("image/gif", None), ("json", None), ("*/*;q=0", None),
        ("image/png; charset=x; q=0.5, image/webp", "image/webp"), ('text/x;a="image/png,b", image/webp', "image/webp"),
        ("image/webp;q=1.000, image/png;q=0.999", "image/webp"), ("image/png;Q=0.2, image/webp;q=0.3", "image/webp"),
        (HTML, "image/webp"), ("text/html, application/json;q=0.9, */*;q=0.8", JSON), (",, ,image/png,", "image/png"),
    ],
)  # fmt: skip
def test_the_best_of_what_is_accepted(accept: str, best: str | None) -> None:
    assert Accept([accept]).best(OFFERS) == best


async def test_accept_decides_between_job_and_image(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    for accept, content_type in [
        ("image/png;q=0.1, application/json", JSON), ("image/jpg", "image/jpeg"), ("image/*", "image/png"),
        ("image/webp;q=0.4, image/png;q=0.3", "image/webp"), ("*/*", JSON), ("image/png;q=0, image/*", "image/jpeg"),
    ]:  # fmt: skip
        answer = await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Accept": accept, "Prefer": "wait=30"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, content_type), accept


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "image/png;q=0", "application/xml, image/avif"])
async def test_what_cannot_be_answered_makes_no_job(http: httpx.AsyncClient, announced: None, accept: str) -> None:
    refused = await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Accept": accept})
    assert "image/webp" in assert_problem(refused, 406)["detail"]
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_a_format_that_is_given_outranks_accept(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()

    async def made(accept: str, **fields: str) -> httpx.Response:
        headers = {"Accept": accept, "Prefer": "wait=30"}
        return await http.post("/v1/txt2img", json={"prompt": "x", **fields}, headers=headers)

    assert (await made("image/*", format="webp")).headers["content-type"] == "image/webp"
    overruled = await made("image/webp", format="png")
    assert overruled.headers["content-type"] == "image/png"
    assert "accept_overruled: The image is image/png" in overruled.headers["x-job-warning"]
    assert "accept_overruled" not in (await made("image/*", format="webp")).headers.get("x-job-warning", "")
    assert (await made("application/json, image/webp;q=0.1", format="png")).json()["request"]["format"] == "png"


async def test_a_replay_has_the_format_of_the_job_that_was_made(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()

    async def made(accept: str) -> httpx.Response:
        headers = {"Accept": accept, "Idempotency-Key": "k"}
        return await http.post("/v1/txt2img", json={"prompt": "x"}, headers=headers)

    assert (await made("image/png")).headers["content-type"] == "image/png"
    replay = await made("image/webp")
    assert replay.headers["content-type"] == "image/png"
    assert replay.headers["idempotent-replay"] == "true"
    assert (await made("application/json")).json()["request"]["format"] == "png"


async def test_a_body_in_an_encoding_is_refused_and_told_so(http: httpx.AsyncClient, announced: None) -> None:
    body, headers = json.dumps({"prompt": "x"}).encode(), {"Content-Type": JSON}
    for encoding in ("gzip", "br", "identity, gzip", "x-unknown"):
        sent = {**headers, "Content-Encoding": encoding}
        refused = await http.post("/v1/txt2img", content=gzip.compress(body), headers=sent)
        assert_problem(refused, 415)
        assert refused.headers["accept-encoding"] == "identity"
    plain = await http.post("/v1/txt2img", content=body, headers={**headers, "Content-Encoding": "identity"})
    assert plain.status_code == 202
    other = await http.post("/v1/txt2img", content=b"prompt=x", headers={"Content-Type": "text/plain"})
    assert other.headers["accept"] == "application/json, multipart/form-data"


NULLS = dict.fromkeys(
    ["negative_prompt", "model", "steps", "sampler", "schedule", "guidance_scale", "guidance_start", "guidance_end",
     "eta", "seed", "n", "priority", "format", "timeout", "metadata", "width", "height", "image", "strength",
     "neighbors", "webhook"]
)  # fmt: skip


async def test_null_is_as_good_as_nothing(http: httpx.AsyncClient, announced: None) -> None:
    plain = await http.post("/v1/txt2img", json={"prompt": "x"})
    nulls = await http.post("/v1/txt2img", json={"prompt": "x", **NULLS})
    assert nulls.status_code == 202, nulls.text
    without_seed = [{k: v for k, v in answer.json()["request"].items() if k != "seed"} for answer in (plain, nulls)]
    assert without_seed[0] == without_seed[1]
    missing = assert_problem(await http.post("/v1/txt2img", json={"prompt": None}), 422)
    assert [error["pointer"] for error in missing["errors"]] == ["/prompt"]
    unknown = assert_problem(await http.post("/v1/txt2img", json={"prompt": "x", "stepz": None}), 422)
    assert [error["pointer"] for error in unknown["errors"]] == ["/stepz"]


async def test_an_empty_form_field_is_as_good_as_none(
    http: httpx.AsyncClient, announced: None, encoded: Callable[..., bytes]
) -> None:
    empty = dict.fromkeys(NULLS, (None, ""))
    files = {"prompt": (None, "x"), **empty, "image": ("", b""), "neighbors": ("", b"")}
    made = await http.post("/v1/txt2img", files=files)
    assert made.status_code == 202, made.text
    assert made.json()["request"]["steps"] == 4
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}  # as a browser sends a file that was not chosen
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'
    part += b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n'
    part += b"Content-Type: application/octet-stream\r\n\r\n\r\n--x--\r\n"
    assert (await http.post("/v1/txt2img", content=part, headers=boundary)).status_code == 202
    for task, name in [
        ("superres", "image"),
        ("txt2img", "prompt"),
        ("semantic2img", "map"),
        ("layout2img", "objects"),
    ]:
        needed = assert_problem(await http.post(f"/v1/{task}", files={name: (None, "")}), 422)
        assert needed["errors"] == [{"pointer": f"/{name}", "detail": "is required"}]
    assert (await http.post("/v1/txt2img", json={"prompt": ""})).status_code == 202  # JSON has a null to leave it out
    broken = assert_problem(await http.post("/v1/txt2img", files={"prompt": (None, "x"), "image": ("a.png", b"")}), 422)
    assert "not a PNG" in broken["detail"]
    unknown = await http.post("/v1/txt2img", files={"prompt": (None, "x"), "stepz": (None, "")})
    assert_problem(unknown, 422)


async def test_an_image_is_not_sent_again_to_who_has_it(http: httpx.AsyncClient, start_worker: Start) -> None:
    start_worker()
    done = await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=30"})
    url = done.json()["images"][0]["url"]
    tag = (await http.get(url)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await http.get(url, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert (await http.get(url, headers={"If-None-Match": f'"{tag[2:]}'})).status_code == 200


async def test_methods_are_named_where_another_is_asked_for(http: httpx.AsyncClient) -> None:
    for path, methods in {
        "/v1/txt2img": "OPTIONS, POST", "/v1/models": "GET, HEAD, OPTIONS",
        "/v1/jobs/x": "DELETE, GET, HEAD, OPTIONS", "/docs": "GET, HEAD, OPTIONS", "/healthz": "GET, HEAD, OPTIONS",
    }.items():  # fmt: skip
        told = await http.options(path)
        assert (told.status_code, told.headers["allow"], told.content) == (204, methods, b"")
        refused = await http.patch(path)
        assert "/docs" in assert_problem(refused, 405)["detail"]
        assert refused.headers["allow"] == methods
    assert_problem(await http.options("/nowhere"), 404)


@pytest.mark.parametrize("settings", [{}, {"api_keys": "alice:ldm_alice-0123456789"}, {"root_path": "/ldm"}])
def test_options_of_the_asterisk_ask_about_the_server(
    start_gateway: Callable[..., Process], settings: dict[str, str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", start_gateway(**settings).port, timeout=30)
    connection.request("OPTIONS", "*")
    answer = connection.getresponse()
    assert (answer.status, answer.read(), bool(answer.headers["x-request-id"])) == (204, b"", True)
    connection.request("GET", "*")
    assert connection.getresponse().status == 404
    connection.close()


async def test_a_slash_at_the_end_changes_nothing(http: httpx.AsyncClient, announced: None) -> None:
    assert (await http.get("/v1/models/")).json() == (await http.get("/v1/models")).json()
    assert (await http.post("/v1/txt2img/", json={"prompt": "x"})).status_code == 202
    assert "/docs" in assert_problem(await http.get("/v1/models//"), 404)["detail"]


def test_head_is_get_without_the_body(start_gateway: Callable[..., Process], start_worker: Start) -> None:
    gateway = start_gateway(result_ttl_s=60)
    start_worker()
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        made = client.post("/v1/txt2img", json={"prompt": "x", "model": "toy"}, headers={"Prefer": "wait=30"})
        job = made.json()
        paths = ["/healthz", "/readyz", "/metrics", "/v1/models", "/v1/jobs", "/docs", "/openapi.json"]
        paths += [job["urls"]["self"], job["images"][0]["url"], "/docs/assets/swagger-ui.css", "/v1/jobs/none"]
        for path in paths:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
            connection.request("HEAD", path)
            head = connection.getresponse()
            get = client.get(path)
            assert head.status == get.status_code, path
            assert head.headers["content-type"] == get.headers["content-type"], path
            if path != "/metrics":  # which counts meanwhile
                assert head.headers["content-length"] == get.headers["content-length"], path
            assert head.read() == b""
            connection.request("GET", "/healthz")  # a body would be read as the answer to this
            assert connection.getresponse().read() == b'{"status":"ok"}'
            connection.close()
        waiting = client.post("/v1/txt2img", json={"prompt": "x", "model": "neighbourly"}).json()
        stream = client.head(waiting["urls"]["events"])  # has no end while the job has none
        assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert 'method="HEAD",route="/v1/models",status="200"} 1.0' in client.get("/metrics").text
