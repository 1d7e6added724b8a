"""Pages of configured origins may use the server from a browser; those of others learn nothing."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from service.settings import GatewaySettings
from tests.service.conftest import Gateway
from tests.service.problems import assert_problem
from worker.process.embedded_redis import EmbeddedRedis

APP, OTHER = "https://app.example", "https://other.example"
SECRET = "ldm_alice-0123456789"
KEYS = SecretStr(f"alice:{SECRET}")
ASKED = "authorization, content-type, prefer, idempotency-key, last-event-id, x-request-id, accept"
READ = {
    "location", "x-job-id", "x-seed", "x-request-id", "retry-after", "ratelimit-limit", "ratelimit-remaining",
    "ratelimit-reset", "idempotent-replay", "etag", "link", "preference-applied", "x-job-warning",
}  # fmt: skip


def preflight(origin: str, method: str = "POST", headers: str = ASKED) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_a_preflight_comes_before_the_key(gateway: Gateway, method: str) -> None:
    http = await gateway(cors_origins=f"{APP},http://localhost:3000", api_keys=KEYS)
    answer = await http.options("/v1/txt2img", headers=preflight(APP, method))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert set(ASKED.split(", ")) <= set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert method in answer.headers["access-control-allow-methods"]
    assert int(answer.headers["access-control-max-age"]) >= 600
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-request-id"]


async def test_a_page_in_a_public_network_may_reach_a_private_server(gateway: Gateway) -> None:
    http = await gateway(cors_origins=APP)
    headers = {**preflight(APP), "Access-Control-Request-Private-Network": "true"}
    answer = await http.options("/v1/txt2img", headers=headers)
    assert answer.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("origin", "method", "headers"), [(OTHER, "POST", ASKED), (APP, "PUT", ASKED), (APP, "GET", "x-other")]
)
async def test_a_preflight_for_anything_else_is_refused(
    gateway: Gateway, origin: str, method: str, headers: str
) -> None:
    http = await gateway(cors_origins=APP)
    answer = await http.options("/v1/txt2img", headers=preflight(origin, method, headers))
    assert "LDM_CORS_ORIGINS" in assert_problem(answer, 400)["detail"]
    assert answer.headers.get("access-control-allow-origin") in {None, APP if origin == APP else None}


@pytest.mark.parametrize("port", ["0", "00", "65536", "99999", "999999"])
def test_an_origin_with_a_port_that_there_is_not_is_refused_and_named(port: str) -> None:
    with pytest.raises(ValueError, match=rf"'https://app\.example:{port}' is no origin"):
        GatewaySettings(cors_origins=f"{APP}:{port}")


def test_the_ports_of_origins_are_read_as_browsers_write_them() -> None:
    given = "https://a.example:443, https://b.example:0443, http://c.example:65535"
    assert GatewaySettings(cors_origins=given).cors_origins == (
        "http://c.example:65535,https://a.example,https://b.example"
    )


async def test_without_origins_there_is_no_cors(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/models", headers={"Origin": APP})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    refused = await http.options("/v1/models", headers=preflight(APP, "GET"))
    assert not [name for name in refused.headers if name.startswith("access-control")]


async def test_an_answer_shows_its_headers_to_the_page(gateway: Gateway, announced: None) -> None:
    http = await gateway(cors_origins=APP)
    answer = await http.post("/v1/txt2img", json={"prompt": "x"}, headers={"Origin": APP})
    assert answer.status_code == 202
    assert answer.headers["access-control-allow-origin"] == APP
    assert set(answer.headers["access-control-expose-headers"].lower().split(", ")) >= READ
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]
    told = await http.get("/v1/models", headers={"Origin": OTHER})
    assert "access-control-allow-origin" not in told.headers


async def test_every_error_shows_itself_to_the_page(
    gateway: Gateway, announced: None, monkeypatch: pytest.MonkeyPatch, redis_server: EmbeddedRedis
) -> None:
    http = await gateway(cors_origins=APP, api_keys=KEYS)
    origin = {"Origin": APP}
    caller = {**origin, "Authorization": f"Bearer {SECRET}"}
    answers = {
        401: await http.get("/v1/models", headers=origin),
        404: await http.get("/nowhere", headers=caller),
        405: await http.put("/v1/txt2img", headers=caller),
        413: await http.post("/v1/txt2img", json={"prompt": "x" * 2**20}, headers=caller),
        422: await http.post("/v1/txt2img", json={}, headers=caller),
    }
    away = await gateway(cors_origins=APP, redis_url="redis://127.0.0.1:1/0")
    answers[503] = await away.post("/v1/txt2img", json={"prompt": "x"}, headers=origin)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("service.intake.submission.GenerationParams", broken)
    answers[500] = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=caller)
    for status, answer in answers.items():
        assert_problem(answer, status)
        assert answer.headers["access-control-allow-origin"] == APP, status
        assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


async def test_a_star_lets_every_page_in(gateway: Gateway, announced: None) -> None:
    http = await gateway(cors_origins="*")
    foreign = {"Origin": OTHER, "Sec-Fetch-Site": "cross-site"}
    answer = await http.post("/v1/txt2img", json={"prompt": "x"}, headers=foreign)
    assert answer.status_code == 202
    assert answer.headers["access-control-allow-origin"] == "*"
    assert (await http.options("/v1/txt2img", headers=preflight(OTHER))).status_code == 200
