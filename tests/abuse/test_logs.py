"""What clients write into paths, headers and fields makes no line of a log, no series of a metric, no path of ours."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable

import httpx
import pytest
from redis import Redis

from tests.abuse.gateway import Gateway
from tests.end_to_end.serving import eventually
from worker.logs import JsonFormatter, TextFormatter

FORGED = "%0d%0a12:00:00%20CRITICAL%20service:%20forged%20%1b[31m%c2%9b%e2%80%a8%e2%80%ae"
LINE = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING) +[a-z_.]+: .*")
PATHS = [
    f"/v1/jobs/{FORGED}", f"/v1/jobs/x/images/{FORGED}", f"/{FORGED}", "/v1/jobs/..%2f..%2fetc%2fpasswd",
    "/v1/jobs/%2e%2e/%2e%2e/etc/passwd", "/v1/jobs/%00", "/v1/jobs/*", "/v1/jobs/%ff%fe", "/v1/jobs/a%3ab%20c",
    "/v1/jobs/" + "9" * 10_000, "/v1/jobs/x/images/" + "9" * 6000, "//v1//jobs//x", "/v1/jobs/x;y=1?z#",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_a_path_finds_no_job_and_forges_no_line(gateway: Gateway, method: str, path: str) -> None:
    with gateway.connect() as connection:  # no client that would put it in order first
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert int(received.split()[1]) in {404, 405}
    assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] in {404, 405}
    assert_every_line_is_ours(gateway)


@pytest.mark.parametrize("index", ["-1", "9" * 5000, "٣", "0x0", "1e3", "%2e%2e", "0%00", FORGED])
def test_an_image_index_is_a_small_number_or_unknown(client: httpx.Client, index: str) -> None:
    made = client.post("/v1/txt2img", json={"prompt": "x"}).json()
    assert client.get(f"{made['urls']['self']}/images/{index}").status_code in {404, 409}


def test_prompts_and_names_leave_no_trace_in_the_log(gateway: Gateway, client: httpx.Client) -> None:
    marked = "marker-5309\r\n12:00:00 CRITICAL service: forged \x1b[31m"
    assert client.post("/v1/txt2img", json={"prompt": marked, "metadata": {marked: marked}}).status_code == 202
    for fields in ({"model": marked}, {"sampler": marked}, {marked: 1}, {"priority": marked}, {"seed": marked}):
        assert client.post("/v1/txt2img", json={"prompt": marked, **fields}).status_code == 422
    assert client.post("/v1/txt2img", data={"prompt": marked}, files={marked: marked.encode()}).status_code == 422
    assert "marker-5309" not in gateway.log()
    assert_every_line_is_ours(gateway)


def test_request_ids_and_methods_make_no_line_and_no_series(gateway: Gateway, client: httpx.Client) -> None:
    for sent in (b"a\x1b[31m", b"a b", b"\xe2\x80\xa8", b"a" * 129):
        answer = client.get("/healthz", headers={b"X-Request-ID": sent})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    for i in range(20):
        assert client.request(f"MADE-UP-{i}", f"/v1/jobs/{i}").status_code == 405
        assert client.request("PROPFIND", f"/v1/jobs/{i}").status_code == 405
        client.get(f"/nowhere/{i}")
    metrics = client.get("/metrics").text
    assert "MADE-UP" not in metrics
    assert "PROPFIND" not in metrics
    assert "nowhere" not in metrics
    assert_every_line_is_ours(gateway)


def assert_every_line_is_ours(gateway: Gateway) -> None:
    for line in gateway.log().splitlines():  # which ends a line at more characters than a terminal does
        assert LINE.fullmatch(line) and line.isprintable(), line


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x1b[2J", "\x9b31m", "\u2028", "\u202e", "\ud800", "\0", "\x7f"])
def test_both_forms_of_a_log_keep_a_message_in_its_line(text: str) -> None:
    record = logging.LogRecord("a", logging.INFO, "a.py", 1, "%s", (text,), None)
    record.request_id = text
    try:
        raise ValueError(text)
    except ValueError:
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["message"] == text
    first, *rest = TextFormatter("%(levelname)s %(message)s").format(record).split("\n")
    assert first.isprintable() and first.startswith("INFO ")
    assert all(line.isprintable() and line.startswith("  ") for line in rest)


def test_probes_leave_no_lines(start_gateway: Callable[..., Gateway], redis: Redis) -> None:
    gateway = start_gateway()
    redis.flushall()  # no worker is there
    for path, status in {"/healthz": 200, "/readyz": 503, "/metrics": 200, "/v1/models": 200}.items():
        assert httpx.get(gateway.url + path).status_code == status
    eventually(lambda: "GET /v1/models 200" in gateway.log(), 5)  # written once the answer is out
    assert not re.search("healthz|readyz|metrics 200", gateway.log())
