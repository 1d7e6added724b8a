"""API keys: who gets in, what each may do and see, and that no key is ever told."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from service.access import auth
from service.access.auth import BadKeys, Forbidden, KeyRing, Unauthorized, new_key
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from worker.jobs import PRIORITIES
from worker.store.records import payload_of

ALICE, BOB = "ldm_alice-0123456789", "ldm_bob-0123456789"
KEYS = SecretStr(f"alice:{ALICE},bob:{BOB}")


def sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def as_caller(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with alice's key, looked at every time."""
    monkeypatch.setattr(auth, "CHECK_S", 0.0)
    path = tmp_path / "keys.toml"
    path.write_text(f'[alice]\nsha256 = "{sha256(ALICE)}"\nrate = 3\nopen_jobs = 2\n')
    return path


def test_keys_come_from_the_environment_in_the_clear_or_hashed(file: Path) -> None:
    ring = KeyRing(f"bob:{BOB}, carol:{sha256('ldm_carol')}", file)
    assert [ring.caller(secret).name for secret in (ALICE, BOB, "ldm_carol")] == ["alice", "bob", "carol"]
    assert BOB not in repr(vars(ring))
    for unknown in (None, "", "ldm_dave", sha256(ALICE), "é"):
        with pytest.raises(Unauthorized):
            ring.caller(unknown)


@pytest.mark.parametrize(
    ("text", "says"),
    [("bob", "entry 1 must be NAME:KEY"), (f"a b:{BOB}", "entry 1"), (f"alice:{ALICE},bob:short", "16 characters"),
     (",", "entry 1"), (f"bob:{BOB},bob:{ALICE}", "same name: bob"), (f"bob:{BOB},alice:{BOB}", "same key")],
)  # fmt: skip
def test_a_bad_list_of_keys_says_where_and_repeats_no_key(text: str, says: str) -> None:
    with pytest.raises(BadKeys, match=says) as refused:
        KeyRing(text)
    assert BOB not in str(refused.value)
    assert "short" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("[alice", "line 1|end of document"), ("[alice]\n", "alice.*sha256"), ('[alice]\nsha256 = "abc"', "alice.*sha256"),
     (f'[alice]\nsha256 = "{"0" * 64}"\nrat = 3', "rat"), (f'["a b"]\nsha256 = "{"0" * 64}"', "name"),
     ("a = 1", "table"), (f'[alice]\nsha256 = "{"0" * 64}"\ntasks = ["img2txt"]', "tasks"),
     (f'[alice]\nsha256 = "{"0" * 64}"\nmax_priority = "higher"', "max_priority.*'high'")],
)  # fmt: skip
def test_a_bad_file_of_keys_says_where(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(BadKeys, match=rf"keys\.toml.*({says})"):
        KeyRing("", file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match=re.escape(str(tmp_path / "nowhere"))):
        KeyRing("", tmp_path / "nowhere")


def test_a_changed_file_counts_at_once_and_a_broken_one_not_at_all(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing("", file)
    secret, entry = new_key("bob")
    file.write_text(entry)
    assert ring.caller(secret).name == "bob"
    with pytest.raises(Unauthorized):
        ring.caller(ALICE)
    for broken in ("[bob", None):
        file.write_text(broken) if broken else file.unlink()
        with caplog.at_level(logging.ERROR):
            assert ring.caller(secret).name == "bob"
        assert "stay as they were" in caplog.text
        assert "keys.toml" in caplog.text
        caplog.clear()
    file.write_text(entry + entry)
    with caplog.at_level(logging.ERROR), pytest.raises(Unauthorized, match=r"file of keys .* cannot be read"):
        ring.caller(ALICE)  # a key that is made now comes with a file that is not read
    assert "[bob] is there twice" in caplog.text
    file.write_text(entry + "disabled = true\n")
    with pytest.raises(Unauthorized, match=r"this API key is unknown$"):
        ring.caller(ALICE)
    with pytest.raises(Forbidden, match="disabled"):
        ring.caller(secret)


def test_a_file_without_keys_lets_nobody_in(file: Path) -> None:
    file.write_text("")
    ring = KeyRing("", file)
    assert ring.configured
    with pytest.raises(Unauthorized):
        ring.caller(ALICE)


def test_a_fresh_key_is_long_and_its_entry_holds_only_the_hash(file: Path) -> None:
    secret, entry = new_key("alice")
    assert len(secret) > 40
    assert secret not in entry
    file.write_text(entry)
    assert KeyRing("", file).caller(secret).name == "alice"
    with pytest.raises(BadKeys, match="a b"):
        new_key("a b")


async def test_every_v1_route_needs_a_key_and_nothing_else_does(gateway: Gateway, announced: None) -> None:
    http = await gateway(api_keys=KEYS)
    paths = (await http.get("/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        for method, route in methods.items():
            url = re.sub(r"\{\w+\}", "0", path)
            for headers in ({}, as_caller("ldm_unknown-0123456789"), {"Authorization": f"Basic {ALICE}"}):
                answer = await http.request(method, url, headers=headers)
                if path.startswith("/v1/"):
                    assert_problem(answer, 401)
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                    signed = [{"SignedUrl": []}] if url.endswith(("/events", "/images/0")) else []
                    assert route["security"] == [{"ApiKey": []}, *signed]
                    assert {"401", "403"} <= set(route["responses"])
                else:
                    assert answer.status_code == 200
                    assert "security" not in route
    assert (await http.get("/docs")).status_code == 200
    assert (await http.get("/v1/models", headers=as_caller(ALICE))).status_code == 200
    assert (await http.get("/v1/models", headers={"authorization": f"bearer {BOB}"})).status_code == 200


async def test_the_openapi_document_has_the_security_scheme(gateway: Gateway) -> None:
    document = (await (await gateway(api_keys=KEYS)).get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["ApiKey"]["scheme"] == "bearer"
    assert (schemes["SignedUrl"]["in"], schemes["SignedUrl"]["name"]) == ("query", "signature")


async def test_a_job_is_there_only_for_its_key(gateway: Gateway, announced: None) -> None:
    http = await gateway(api_keys=KEYS)
    made = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))
    url = made.headers["location"]
    unknown = assert_problem(await http.get("/v1/jobs/unknown", headers=as_caller(BOB)), 404)
    for method, path in [("GET", ""), ("GET", "/images/0"), ("GET", "/events"), ("DELETE", "")]:
        refused = assert_problem(await http.request(method, url + path, headers=as_caller(BOB)), 404)
        assert refused["detail"] == unknown["detail"]
    assert (await http.get("/v1/jobs", headers=as_caller(BOB))).json()["data"] == []
    assert [job["id"] for job in (await http.get("/v1/jobs", headers=as_caller(ALICE))).json()["data"]]
    assert (await http.get(url, headers=as_caller(ALICE))).json()["status"] == "queued"
    assert (await http.delete(url, headers=as_caller(ALICE))).json()["status"] == "cancelled"


async def test_jobs_of_keys_are_hidden_when_keys_are_no_longer_configured(gateway: Gateway, announced: None) -> None:
    http = await gateway(api_keys=KEYS)
    made = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))
    assert_problem(await (await gateway()).get(made.headers["location"]), 404)


async def test_a_key_may_be_kept_to_some_tasks_and_models(
    gateway: Gateway, announced: None, file: Path, redis: Redis
) -> None:
    file.write_text(f'[alice]\nsha256 = "{sha256(ALICE)}"\ntasks = ["txt2img"]\nmodels = ["plain"]\n')
    http = await gateway(api_keys_file=file)
    assert_problem(await http.post("/v1/superres", json={}, headers=as_caller(ALICE)), 403)
    named = await http.post("/v1/txt2img", json={"prompt": "x", "model": "toy"}, headers=as_caller(ALICE))
    assert "plain" in assert_problem(named, 403)["detail"]
    assert redis.zcard("ldm:open") == 0
    models = (await http.get("/v1/models", headers=as_caller(ALICE))).json()["data"]
    assert [model["id"] for model in models] == ["plain"]
    text = (await http.get("/metrics")).text
    assert 'ldm_jobs_refused_total{key="alice",reason="forbidden"} 2.0' in text


@pytest.mark.parametrize(
    ("right", "weights"), [("", [1, 1, 1]), ("normal", [1, 1, 1]), ("high", [8, 1, 1]), ("low", [1 / 8] * 3)]
)
async def test_a_priority_counts_against_other_keys_by_a_right_alone(
    gateway: Gateway, announced: None, file: Path, redis: Redis, right: str, weights: list[float]
) -> None:
    file.write_text(f'[alice]\nsha256 = "{sha256(ALICE)}"\n' + (f'max_priority = "{right}"\n' if right else ""))
    http = await gateway(api_keys_file=file)
    for priority in PRIORITIES:
        body = {"prompt": "x", "priority": priority}
        assert (await http.post("/v1/txt2img", json=body, headers=as_caller(ALICE))).status_code == 202
    ids = [redis.lindex(f"rq:queue:toy.{priority}@alice", 0) for priority in PRIORITIES]
    records = [redis.hget(f"rq:job:{job_id.decode()}", "data") for job_id in ids]
    assert [payload_of(data).weight for data in records] == weights


async def test_logs_and_metrics_name_the_key_and_never_tell_it(
    gateway: Gateway, announced: None, caplog: pytest.LogCaptureFixture
) -> None:
    http = await gateway(api_keys=KEYS)
    with caplog.at_level(logging.DEBUG):
        await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller(ALICE))
        await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller("ldm_unknown-0123456789"))
    lines = [record for record in caplog.records if record.name == "service.http.middleware"]
    assert [(record.key, record.args[2]) for record in lines] == [("alice", 202), ("", 401)]  # type: ignore[attr-defined,index]
    text = (await http.get("/metrics")).text
    assert 'ldm_jobs_submitted_total{key="alice",model="toy",task="txt2img"} 1.0' in text
    told = text + caplog.text + repr([vars(record) for record in caplog.records])
    assert ALICE not in told
    assert "ldm_unknown" not in told


async def test_without_keys_everyone_is_let_in_whatever_they_send(http: httpx.AsyncClient, announced: None) -> None:
    made = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=as_caller("sk-whatever-an-sdk-sends"))
    assert made.status_code == 202
    assert (await http.get(made.headers["location"])).status_code == 200
    document = (await http.get("/openapi.json")).json()
    assert "security" not in document["paths"]["/v1/txt2img"]["post"]
