"""A server without keys, a browser, and pages of other sites: over a socket, as `ldm gateway` serves."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from pydantic import ValidationError
from redis import Redis

from service.access.origins import own_hosts
from service.settings import GatewaySettings
from tests.abuse.gateway import Gateway, announce
from worker.process.embedded_redis import EmbeddedRedis

SECRET = "ldm_alice-0123456789"
JSON = ("Content-Type", "application/json")
Start = Callable[..., Gateway]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def detail(self) -> str:
        problem = json.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["x-request-id"]
        return str(problem["detail"])


def ask(gateway: Gateway, target: str = "/v1/models", *headers: tuple[str, str], body: bytes | None = None) -> Answer:
    """Sends exactly these headers; with a body it is a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.putrequest("GET" if body is None else "POST", target, skip_host=True, skip_accept_encoding=True)
    for header in headers:
        connection.putheader(*header)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return found


@pytest.fixture(scope="module")
def start(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Gateways that all tests here share."""
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    announce(redis_server.url)
    started: dict[str, Gateway] = {}

    def once(**settings: str) -> Gateway:
        key = str(sorted(settings.items()))
        if key not in started:
            folder = tmp_path_factory.mktemp("gateway")
            started[key] = Gateway(redis_server.url, folder, **{"allowed_hosts": "", **settings})
        return started[key]

    yield once
    for gateway in started.values():
        gateway.stop()


LOOPBACK = [
    "localhost",
    "localhost:8000",
    "LocalHost.",
    "127.0.0.1:1",
    "127.9.9.9",
    "[::1]",
    "[::1]:8000",
    "localhost:",
]
FOREIGN = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.5:8000",
    "[fe80::1]:8000", "0.0.0.0", "", "localhost@evil.example", "localhost:80:80", "a b", "gw.example", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_without_keys_a_loopback_host_is_answered(start: Start, host: str) -> None:
    assert ask(start(), "/v1/models", ("Host", host)).status == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_without_keys_any_other_host_is_misdirected(start: Start, host: str) -> None:
    refused = ask(start(), "/v1/models", ("Host", host))
    assert refused.status == 421
    assert "LDM_ALLOWED_HOSTS" in refused.detail()
    assert ask(start(), "/v1/txt2img", ("Host", host), JSON, body=b'{"prompt": "x"}').status == 421


@pytest.mark.parametrize("host", ["gw.example", "GW.example.:443", "[fd00::7]:8000", "10.1.2.3", "localhost"])
def test_configured_hosts_are_answered(start: Start, host: str) -> None:
    gateway = start(allowed_hosts="gw.example, FD00::7, 10.1.2.3")
    assert ask(gateway, "/v1/models", ("Host", host)).status == 200
    assert ask(gateway, "/v1/models", ("Host", "other.example")).status == 421


def test_a_star_answers_any_host(start: Start) -> None:
    assert ask(start(allowed_hosts="*"), "/v1/models", ("Host", "any.example")).status == 200


def test_the_host_to_listen_on_is_answered_where_it_is_one() -> None:
    assert own_hosts("", "Gw.Example") == {"gw.example"}
    assert own_hosts("a.example", "192.168.1.5") == {"a.example", "192.168.1.5"}
    assert own_hosts("", "0.0.0.0") == own_hosts("", "::") == set()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_may_come_with_an_address_but_not_with_a_name(start: Start, path: str) -> None:
    assert ask(start(), path, ("Host", "10.42.0.17:8000")).status == 200
    assert ask(start(), path, ("Host", "[fd00::17]:8000")).status == 200
    assert ask(start(), path, ("Host", "evil.example")).status == 421


def test_with_keys_any_host_is_answered_unless_hosts_are_configured(start: Start) -> None:
    key = ("Authorization", f"Bearer {SECRET}")
    keys = f"alice:{SECRET}"
    assert ask(start(api_keys=keys), "/v1/models", ("Host", "any.example"), key).status == 200
    limited = start(api_keys=keys, allowed_hosts="gw.example")
    assert ask(limited, "/v1/models", ("Host", "any.example"), key).status == 421
    assert ask(limited, "/v1/models", ("Host", "gw.example"), key).status == 200


def test_hosts_that_disagree_are_a_bad_request(start: Start) -> None:
    for gateway in (start(), start(allowed_hosts="*")):
        assert ask(gateway, "/healthz", ("Host", "localhost"), ("Host", "evil.example")).status == 400
        assert ask(gateway, "/healthz", ("Host", "localhost"), ("host", "localhost")).status == 400
        assert ask(gateway, "http://evil.example/v1/models", ("Host", "localhost")).status == 400
        assert ask(gateway, "http://LOCALHOST:8000/v1/models", ("Host", "localhost:8000")).status == 200


def post(gateway: Gateway, *headers: tuple[str, str]) -> Answer:
    return ask(gateway, "/v1/txt2img", ("Host", "localhost:8000"), JSON, *headers, body=b'{"prompt": "x"}')


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Origin": "http://localhost:8000"}, {"Origin": "https://localhost:8000"},
        {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, {"Origin": "HTTPS://app.example"},
    ],
)  # fmt: skip
def test_a_job_comes_from_programs_own_pages_and_allowed_origins(start: Start, headers: dict[str, str]) -> None:
    assert post(start(cors_origins="https://app.example:443/"), *headers.items()).status == 202


@pytest.mark.parametrize(
    "headers",
    [
        [("Origin", "https://evil.example")], [("Origin", "null")], [("Origin", "http://localhost:3000")],
        [("Origin", "http://localhost")], [("Origin", "https://app.example.evil.example")], [("Origin", "")],
        [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site")],
        [("Origin", "http://localhost:8000"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")],
        [("Origin", "https://app.example"), ("Origin", "https://evil.example")],
    ],
)  # fmt: skip
def test_a_page_of_another_site_makes_no_job(
    start: Start, redis_server: EmbeddedRedis, headers: list[tuple[str, str]]
) -> None:
    with Redis.from_url(redis_server.url) as redis:
        before = redis.zcard("ldm:open")
        refused = post(start(cors_origins="https://app.example"), *headers)
        assert refused.status == 403
        assert "LDM_CORS_ORIGINS" in refused.detail()
        assert redis.zcard("ldm:open") == before


def test_a_foreign_form_is_refused_whatever_its_content_type(start: Start) -> None:
    form = ("Content-Type", "multipart/form-data; boundary=x")
    body = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhi\r\n--x--\r\n'
    foreign = ("Origin", "https://evil.example")
    assert ask(start(), "/v1/txt2img", ("Host", "localhost"), form, foreign, body=body).status == 403


def test_reading_needs_no_origin_and_keys_need_no_guard(start: Start) -> None:
    foreign = [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")]
    assert ask(start(), "/v1/models", ("Host", "localhost"), *foreign).status == 200
    assert "access-control-allow-origin" not in ask(start(), "/v1/models", ("Host", "localhost"), *foreign).headers
    assert post(start(api_keys=f"alice:{SECRET}"), *foreign).status == 401


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "app.example"), ("cors_origins", "https://app.example/path"), ("cors_origins", "null"),
        ("cors_origins", "https://app.example:99999"), ("cors_origins", "https://app.example:0"),
        ("allowed_hosts", "http://gw.example"), ("allowed_hosts", "gw.example:8000"), ("root_path", "ldm"),
        ("root_path", "/v1"), ("root_path", "/docs/x"), ("root_path", "/a b"), ("allowed_hosts", "*.example"),
    ],
)  # fmt: skip
def test_a_setting_that_means_nothing_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name):
        GatewaySettings.model_validate({name: value})
