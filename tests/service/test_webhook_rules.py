"""Which webhooks are taken: hosts, schemes, addresses, settings; whatever is refused is refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from ldm_core.errors import InvalidParameter
from service.access.webhooks import MAX_URL_CHARS, WebhookRules, is_public, origin_of, parse_webhook_hosts
from service.settings import GatewaySettings
from tests.receiver import OLD_SECRET, SECRET
from tests.service.problems import assert_problem

RULES = WebhookRules(parse_webhook_hosts("Hooks.Example.com, *.wild.example, local.example:9000, [2606:4700::1111]"))
TAKEN = {
    "https://hooks.example.com/a?b=c": "https://hooks.example.com/a?b=c",
    "HTTPS://Hooks.Example.COM.:443": "https://hooks.example.com/",
    "https://hooks.example.com?a=b": "https://hooks.example.com/?a=b",
    "https://a.wild.example/": "https://a.wild.example/",
    "https://a.b.wild.example/x": "https://a.b.wild.example/x",
    "https://local.example:9000/": "https://local.example:9000/",
    "https://[2606:4700::1111]/": "https://[2606:4700::1111]/",
}
REFUSED = {
    "http://hooks.example.com/": "https",
    "ftp://hooks.example.com/": "https",
    "file:///etc/passwd": "https",
    "hooks.example.com": "https",
    "": "https",
    "https://": "ASCII",
    "https://me@hooks.example.com/": "user name",
    "https://me:pw@hooks.example.com/": "user name",
    "https://hooks.example.com/#part": "fragment",
    "https://hooks.example.com\\@other.example/": "user name",
    "https://hooks.example.com\\.other.example/": "ASCII",
    "https://hooks.example.com/a b": "ASCII",
    "https://hooks.example.com/a\r\nx: y": "ASCII",
    "https://hooks.example.com/ä": "ASCII",
    "https://höoks.example.com/": "ASCII",
    "https://hooks.example.com:0/": "port",
    "https://hooks.example.com:99999/": "port",
    "https://hooks.example.com:8443/": "hooks.example.com:8443 is not allowed",
    "https://local.example/": "local.example:443 is not allowed",
    "https://wild.example/": "not allowed",
    "https://evilwild.example/": "not allowed",
    "https://hooks.example.com.evil.example/": "not allowed",
    "https://127.0.0.1/": "not allowed",
    "https://2130706433/": "not allowed",
    f"https://hooks.example.com/{'x' * MAX_URL_CHARS}": "2048",
}


@pytest.mark.parametrize("url", TAKEN)
def test_a_url_of_an_allowed_host_is_taken_in_one_form(url: str) -> None:
    assert RULES.checked(url) == TAKEN[url]
    assert RULES.checked(TAKEN[url]) == TAKEN[url]


@pytest.mark.parametrize("url", REFUSED)
def test_every_other_url_is_refused_with_the_reason(url: str) -> None:
    with pytest.raises(InvalidParameter, match=REFUSED[url]) as refused:
        RULES.checked(url)
    assert refused.value.field == "webhook"


def test_http_is_taken_where_private_addresses_are() -> None:
    rules = WebhookRules(parse_webhook_hosts("hooks.example.com,localhost:9000"), private=True)
    assert rules.checked("http://hooks.example.com:80/") == "http://hooks.example.com/"
    assert rules.checked("http://localhost:9000") == "http://localhost:9000/"
    with pytest.raises(InvalidParameter, match="not allowed"):
        rules.checked("http://hooks.example.com:443/")


PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:0:0:0:0:80ff:fffe",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_not_everybody_reaches_is_not_public(address: str) -> None:
    assert not is_public(address)
    assert WebhookRules().refusal(address) and not WebhookRules(private=True).refusal(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


def test_what_is_shown_of_a_url_is_no_secret() -> None:
    assert origin_of("https://hooks.example.com:8443/services/T0/B0/XXX?token=1") == "https://hooks.example.com:8443"


async def test_without_hosts_there_are_no_webhooks(http: httpx.AsyncClient, announced: None) -> None:
    refused = await http.post("/v1/txt2img", json={"prompt": "x", "webhook": "https://hooks.example.com/"})
    (error,) = assert_problem(refused, 422)["errors"]
    assert error["pointer"] == "/webhook" and "LDM_WEBHOOK_HOSTS" in error["detail"]


async def test_json_and_forms_take_it_and_show_its_host_alone(
    gateway: Callable[..., Awaitable[httpx.AsyncClient]], announced: None
) -> None:
    http = await gateway(webhook_hosts="hooks.example.com", webhook_secret=SecretStr(SECRET))
    for url, status in (("https://other.example/", 422), ("https://hooks.example.com/s3cret", 202)):
        fields = {"prompt": "x", "webhook": url}
        as_json = await http.post("/v1/txt2img", json=fields)
        as_form = await http.post("/v1/txt2img", files={name: (None, value) for name, value in fields.items()})
        for answer in (as_json, as_form):
            assert answer.status_code == status and "s3cret" not in answer.text
            if status == 422:
                assert [error["pointer"] for error in assert_problem(answer, 422)["errors"]] == ["/webhook"]
            else:
                assert answer.json()["request"]["webhook"] == "https://hooks.example.com"


async def test_every_route_that_makes_a_job_documents_it(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    bodies = [
        content["schema"]["$ref"].rpartition("/")[2]
        for path in document["paths"].values()
        for content in path.get("post", {}).get("requestBody", {}).get("content", {}).values()
    ]
    assert len(bodies) >= 16
    assert document["webhooks"]["job"]["post"]["operationId"] == "job_ended"
    assert all("webhook" in document["components"]["schemas"][name]["properties"] for name in bodies)


async def test_another_webhook_is_another_request(
    gateway: Callable[..., Awaitable[httpx.AsyncClient]], announced: None
) -> None:
    http = await gateway(webhook_hosts="hooks.example.com", webhook_secret=SecretStr(SECRET))
    body, key = {"prompt": "x", "webhook": "https://hooks.example.com/1"}, {"Idempotency-Key": "a"}
    assert (await http.post("/v1/txt2img", json=body, headers=key)).status_code == 202
    again = await http.post("/v1/txt2img", json=body, headers=key)
    assert again.headers["idempotent-replay"] == "true"
    other = await http.post("/v1/txt2img", json={**body, "webhook": "https://hooks.example.com/2"}, headers=key)
    assert_problem(other, 422)


BAD = {
    "no secret": ({"webhook_hosts": "a.example"}, "LDM_WEBHOOK_SECRET must be set"),
    "no prefix": ({"webhook_secret": SECRET.removeprefix("whsec_")}, "whsec_"),
    "no base64": ({"webhook_secret": "whsec_*"}, "whsec_"),
    "short": ({"webhook_secret": "whsec_c2hvcnQ="}, "24 to 64"),
    "three": ({"webhook_secret": ",".join([SECRET] * 3)}, "3 secrets"),
    "any host": ({"webhook_hosts": "*"}, "is no host"),
    "a URL": ({"webhook_hosts": "https://a.example"}, "is no host"),
    "a port too far": ({"webhook_hosts": "a.example:70000"}, "port"),
    "no seconds": ({"webhook_backoff_s": "5,soon"}, "seconds"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_setting_that_cannot_be_meant_stops_the_start(name: str) -> None:
    settings, said = BAD[name]
    with pytest.raises(ValidationError, match=said):
        GatewaySettings(**settings)  # type: ignore[arg-type]


def test_two_secrets_and_hosts_with_ports_are_read() -> None:
    settings = GatewaySettings(
        webhook_hosts="a.example, *.b.example:8443,", webhook_secret=SecretStr(f"{SECRET}, {OLD_SECRET}")
    )
    assert settings.webhook_rules.hosts == {("a.example", ""), ("*.b.example", "8443")}
    assert settings.webhook_secrets == [SECRET, OLD_SECRET]
    assert settings.webhook_waits_s[:3] == [5, 300, 1800]
