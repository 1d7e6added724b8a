"""Signed URLs: what `<img>` and `EventSource` can open without a header, for a while, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.access import auth
from service.access.links import BadSignature, UrlSigner
from service.broker import signing
from service.settings import GatewaySettings
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from tests.service.test_auth import ALICE, BOB, KEYS, as_caller, sha256
from tests.worker.processes import WorkerProcess
from worker.store.keys import Key

Start = Callable[..., WorkerProcess]
PAGE = "https://app.example"


async def finished(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A job of alice's that has succeeded."""
    headers = {**as_caller(ALICE), "Prefer": "wait=30"}
    answer = await http.post("/v1/txt2img", json={"prompt": "a boat", "n": 2, "seed": 7, **fields}, headers=headers)
    assert answer.json()["status"] == "succeeded", answer.text
    return dict(answer.json())


async def test_an_image_and_the_events_open_without_a_header(gateway: Gateway, start_worker: Start) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS, cors_origins=PAGE)
    job = await finished(http)
    path = job["urls"]["self"]
    for index, image in enumerate(job["images"]):
        assert image["url"] == f"{path}/images/{index}"
        assert image["signed_url"].startswith(f"{image['url']}?signature=")
        for headers in ({}, {"Origin": PAGE}, as_caller(BOB), as_caller("ldm_unknown-0123456789")):
            answer = await http.get(image["signed_url"], headers=headers)
            assert (answer.status_code, answer.content) == (200, b"a boat:7")
            assert answer.headers["etag"] == f'"{image["sha256"]}"'
        assert_problem(await http.get(image["url"]), 401)
    events = await http.get(job["urls"]["events_signed"] + "&preview=1", headers={"Origin": PAGE})
    assert (events.status_code, events.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "event: succeeded" in events.text
    assert '"signed_url":' in events.text and '"events_signed":' in events.text
    listed = (await http.get("/v1/jobs", headers=as_caller(ALICE))).json()["data"]
    for image in listed[0]["images"]:
        assert (await http.get(image["signed_url"])).status_code == 200


async def test_head_and_if_none_match_work_as_with_a_key(gateway: Gateway, start_worker: Start) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS)
    job = await finished(http)
    image = job["images"][0]
    head = await http.head(image["signed_url"])
    assert (head.status_code, head.headers["content-length"]) == (200, str(image["bytes"]))
    again = await http.get(image["signed_url"], headers={"If-None-Match": head.headers["etag"]})
    assert again.status_code == 304
    assert (await http.head(job["urls"]["events_signed"])).status_code == 200


async def test_a_signature_opens_its_own_path_alone(gateway: Gateway, start_worker: Start) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS)
    job, other = await finished(http), await finished(http)
    path, query = job["images"][0]["signed_url"].split("?")
    of_events = job["urls"]["events_signed"].split("?")[1]
    for wrong in (f"{path[:-1]}1?{query}", f"{path}?{of_events}", f"{job['urls']['events']}?{query}"):
        assert "another image or the events" in assert_problem(await http.get(wrong), 403)["detail"]
    strange = f"{other['urls']['self']}/images/0?{query}"
    assert "made none such" in assert_problem(await http.get(strange), 403)["detail"]
    assert_problem(await http.get(f"/v1/jobs/unknown/images/0?{query}"), 403)  # it does not tell which jobs there are
    for closed in (job["urls"]["self"], "/v1/jobs", "/v1/models"):
        assert_problem(await http.get(f"{closed}?{query}"), 401)
    assert_problem(await http.delete(f"{job['urls']['self']}?{query}"), 401)
    assert_problem(await http.post(f"/v1/txt2img?{query}", json={"prompt": "x"}), 401)
    for method in ("POST", "DELETE"):
        assert_problem(await http.request(method, f"{path}?{query}"), 405)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda signature: signature[:-2] + ("AA" if signature[-2:] != "AA" else "BB"), "made none such"),
        (lambda signature: str(int(signature[:10]) + 3600) + signature[10:], "made none such"),
        (lambda signature: signature[:10] + ".", "damaged"),
        (lambda signature: signature + "A", "damaged"),
        (lambda signature: signature.replace(".", ""), "damaged"),
        (lambda signature: "١" + signature[1:], "damaged"),
        (lambda signature: "\0é" * 500, "damaged"),
        (lambda signature: "", "damaged"),
    ],
    ids=["mac", "later", "no-mac", "longer", "no-dot", "digits", "noise", "empty"],
)
async def test_a_forged_signature_is_refused(
    gateway: Gateway, announced: None, change: Callable[[str], str], says: str
) -> None:
    http = await gateway(api_keys=KEYS)
    job = (await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))).json()
    path, _, signature = job["urls"]["events_signed"].partition("?signature=")
    for headers in ({}, as_caller(ALICE)):  # where there is a signature it alone decides
        answer = await http.head(path, params={"signature": change(signature)}, headers=headers)
        assert answer.status_code == 403
    assert says in assert_problem(await http.get(path, params={"signature": change(signature)}), 403)["detail"]


async def test_a_signature_ends_after_its_time(gateway: Gateway, start_worker: Start) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS, signed_url_ttl_s=1)
    job = await finished(http)
    await asyncio.sleep(2.1)
    expired = assert_problem(await http.get(job["images"][0]["signed_url"]), 403)
    assert "has expired" in expired["detail"]
    assert "signature" not in expired["instance"]
    fresh = (await http.get(job["urls"]["self"], headers=as_caller(ALICE))).json()
    assert (await http.get(fresh["images"][0]["signed_url"])).status_code == 200


async def test_a_wrong_clock_changes_nothing(
    gateway: Gateway, announced: None, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    http = await gateway(api_keys=KEYS)
    job = (await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))).json()
    ends = int(job["urls"]["events_signed"].partition("=")[2].partition(".")[0])
    assert 597 <= ends - redis.time()[0] <= 601
    assert (await http.head(job["urls"]["events_signed"])).status_code == 200


def test_another_secret_opens_nothing_and_none_is_shown() -> None:
    signer = UrlSigner(b"secret", 600, 0.0)
    signer.check("/a", signer.sign("/a"))
    assert "secret'" not in repr(signer)
    with pytest.raises(BadSignature, match="made none such"):
        UrlSigner(b"another", 600, 0.0).check("/a", signer.sign("/a"))
    with pytest.raises(BadSignature, match="expired"):
        UrlSigner(b"secret", 600, 601.0).check("/a", signer.sign("/a"))


async def test_an_image_may_be_kept_no_longer_than_its_signature(gateway: Gateway, start_worker: Start) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS, signed_url_ttl_s=60)
    image = (await finished(http))["images"][0]
    kept = [
        await http.get(image["signed_url"]), await http.get(image["url"], headers=as_caller(ALICE)),
    ]  # fmt: skip
    signed_s, keyed_s = (int(answer.headers["cache-control"].split("=")[1].split(",")[0]) for answer in kept)
    assert 50 < signed_s <= 61 and 3500 < keyed_s <= 3600


async def test_a_signature_does_not_outlive_the_images_or_the_job(
    gateway: Gateway, start_worker: Start, redis: Redis
) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS)
    job = await finished(http)
    assert (await http.delete(job["urls"]["self"], headers=as_caller(ALICE))).status_code == 204
    assert "it has 0" in assert_problem(await http.get(job["images"][0]["signed_url"]), 404)["detail"]
    redis.delete(Key.JOB.of(job["id"]))
    for url in (job["images"][0]["signed_url"], job["urls"]["events_signed"]):
        assert "no such job" in assert_problem(await http.get(url), 404)["detail"]


async def test_an_open_job_has_signed_events_and_its_image_is_not_there_yet(gateway: Gateway, announced: None) -> None:
    http = await gateway(api_keys=KEYS)
    job = (await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))).json()
    assert job["images"] == []
    assert (await http.head(job["urls"]["events_signed"])).status_code == 200
    unsigned = assert_problem(await http.get(f"{job['urls']['self']}/images/0"), 401)
    assert "API key" in unsigned["detail"]


async def test_a_signature_ends_with_the_key_whose_job_it_is(
    gateway: Gateway, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CHECK_S", 0.0)
    start_worker()
    file = tmp_path / "keys.toml"
    file.write_text(entry := f'[alice]\nsha256 = "{sha256(ALICE)}"\n')
    http = await gateway(api_keys_file=file)
    url = (await finished(http))["images"][0]["signed_url"]
    for removed in (f'[bob]\nsha256 = "{sha256(BOB)}"\n', entry + "disabled = true\n"):
        file.write_text(removed)
        assert "gone or disabled" in assert_problem(await http.get(url), 403)["detail"]
    file.write_text(entry)
    assert (await http.get(url)).status_code == 200


async def test_gateways_of_one_redis_share_the_secret_until_it_is_deleted(
    gateway: Gateway, start_worker: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "BELIEVED_S", 0.0)
    start_worker()
    first, second = await gateway(api_keys=KEYS), await gateway(api_keys=KEYS, root_path="/ldm")
    job = await finished(first)
    url = job["images"][0]["signed_url"]
    assert (await second.get(f"/ldm{url}")).status_code == (await second.get(url)).status_code == 200
    below = (await second.get(job["urls"]["self"], headers=as_caller(ALICE))).json()["images"][0]
    assert below["signed_url"].startswith(f"/ldm{url.split('?')[0]}?signature=")
    assert (await second.get(below["signed_url"])).status_code == 200
    secret = redis.get(Key.SIGNING)
    assert secret is not None and len(secret) == 32
    assert redis.ttl(Key.SIGNING) == -1
    redis.delete(Key.SIGNING)
    assert_problem(await first.get(url), 403)
    assert redis.get(Key.SIGNING) != secret


async def test_without_keys_nothing_is_signed(http: httpx.AsyncClient, start_worker: Start, redis: Redis) -> None:
    start_worker()
    answer = await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=30"})
    job = answer.json()
    assert "signed_url" not in job["images"][0]
    assert "events_signed" not in job["urls"]
    assert not redis.exists(Key.SIGNING)
    document = (await http.get("/openapi.json")).json()
    assert "SignedUrl" not in document["components"].get("securitySchemes", {})


async def test_logs_and_metrics_name_the_key_and_never_tell_a_signature(
    gateway: Gateway, start_worker: Start, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    start_worker()
    http = await gateway(api_keys=KEYS)
    job = await finished(http)
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="service"):
        for url in (job["images"][0]["signed_url"], job["urls"]["events_signed"], job["images"][0]["signed_url"][:-1]):
            await http.get(url)
    lines = [record for record in caplog.records if record.name == "service.http.middleware"]
    assert [(record.key, record.args[2]) for record in lines] == [("alice", 200), ("alice", 200), ("", 403)]  # type: ignore[attr-defined,index]
    told = (await http.get("/metrics")).text + repr([vars(record) for record in lines])
    for url in (job["images"][0]["signed_url"], job["urls"]["events_signed"]):
        assert url.split("signature=")[1][:-1] not in told
    assert "signature" not in told
    assert 'route="/v1/jobs/{job_id}/images/{index}"' in told
    text = repr([vars(record) for record in caplog.records])
    assert repr(redis.get(Key.SIGNING)) not in text


async def test_reading_by_a_signature_spends_nobodys_rate(
    gateway: Gateway, start_worker: Start, tmp_path: Path
) -> None:
    start_worker()
    file = tmp_path / "keys.toml"
    file.write_text(f'[alice]\nsha256 = "{sha256(ALICE)}"\nrate = 2\n')
    http = await gateway(api_keys_file=file)
    job = await finished(http)
    for _ in range(5):
        assert (await http.get(job["images"][0]["signed_url"])).status_code == 200
        assert (await http.get(job["images"][1]["signed_url"][:-1])).status_code == 403
    made = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))
    assert (made.status_code, made.headers["ratelimit-remaining"]) == (202, "0")


async def test_redis_away_is_503_and_no_key_is_401_all_the_same(tmp_path: Path, gateway: Gateway) -> None:
    http = await gateway(api_keys=KEYS, redis_url=f"unix://{tmp_path}/nowhere")
    signed = f"/v1/jobs/{'0' * 32}/images/0?signature=1700000000.{'A' * 43}"
    assert "Retry-After" in (await http.get(signed)).headers
    assert_problem(await http.get(signed), 503)
    assert_problem(await http.get(signed.partition("?")[0]), 401)


@pytest.mark.parametrize("ttl_s", [0, -1, 86401, "soon"])
def test_a_time_out_of_bounds_stops_the_start(ttl_s: object) -> None:
    with pytest.raises(ValueError, match="signed_url_ttl_s"):
        GatewaySettings(signed_url_ttl_s=ttl_s)  # type: ignore[arg-type]
