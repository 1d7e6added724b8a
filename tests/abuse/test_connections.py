"""Connections that say too much, too little or too slowly: each one ends, and everybody else is answered meanwhile."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import httpx
import pytest

from service.http.connection import MAX_HEAD
from service.http.server import raise_file_limit
from tests.abuse.conftest import LIMIT
from tests.abuse.gateway import Gateway
from tests.end_to_end.serving import eventually

Start = Callable[..., Gateway]
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
HEAD = b"POST /v1/txt2img HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def answer_to(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and problem, up to the end of the connection, which therefore was closed."""
    received = bytearray()
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, received
    return int(head.split()[1]), json.loads(body)


def trickle(connection: socket.socket, part: bytes, pause_s: float = 0.1, patience_s: float = 15) -> float:
    """Sends `part` again and again until the other side hangs up; the seconds until then."""
    started = time.monotonic()
    connection.settimeout(pause_s)
    while time.monotonic() - started < patience_s:
        try:
            connection.sendall(part)
            if connection.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    connection.settimeout(15)
    return time.monotonic() - started


def test_a_declared_length_over_the_limit_is_refused_before_the_body(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
        assert answer_to(connection)[0] == 413


def test_a_body_without_a_length_is_cut_off_at_the_limit(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert trickle(connection, b"10000\r\n" + b" " * 65536 + b"\r\n", pause_s=0.01) < 10
        assert answer_to(connection)[0] == 413


def test_a_large_upload_reads_its_refusal(client: httpx.Client) -> None:
    assert client.post("/v1/txt2img", json={"prompt": "x" * (4 * LIMIT)}).status_code == 413


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_trickles_has_one_time_for_the_whole_of_it(start_gateway: Start, framing: bytes) -> None:
    gateway = start_gateway(body_timeout_s=1)
    with gateway.connect() as connection:
        connection.sendall(HEAD + framing + b"\r\n\r\n")
        assert 0.8 < trickle(connection, b"1\r\n \r\n") < 5
        status, problem = answer_to(connection)
    assert (status, problem["status"]) == (408, 408)
    assert "1 s" in str(problem["detail"])


def test_headers_that_trickle_have_one_time_for_all_of_them(start_gateway: Start) -> None:
    gateway = start_gateway(headers_timeout_s=1)
    with gateway.connect() as connection:
        connection.sendall(HEAD)
        assert 0.8 < trickle(connection, b"X-More: 1\r\n") < 5
        assert answer_to(connection)[0] == 408
    with gateway.connect() as silent:
        silent.settimeout(5)
        assert silent.recv(1) == b""
    with httpx.Client(base_url=gateway.url) as client:  # one that is in use is no idle one
        for _ in range(4):
            assert client.get("/healthz").status_code == 200
            time.sleep(0.4)


def test_what_comes_after_an_early_answer_cannot_hold_the_connection(start_gateway: Start) -> None:
    gateway = start_gateway(headers_timeout_s=1)
    with gateway.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        assert trickle(connection, b" ") < 5


def test_a_client_that_does_not_read_is_let_go(start_gateway: Start) -> None:
    gateway = start_gateway(headers_timeout_s=1)
    size = len(httpx.get(f"{gateway.url}/openapi.json").content)
    with gateway.connect() as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 300)
        time.sleep(3)
        received = 0
        with suppress(ConnectionError):
            while part := connection.recv(2**20):
                received += len(part)
    assert received < 200 * size
    assert not re.search(r"Traceback| 500 ", gateway.log())


@pytest.mark.parametrize(
    "flood",
    [
        b"X-Long: " + b"x" * 10**6,
        b"".join(b"X-%d: 1\r\n" % i for i in range(50_000)),
        b"X" * 10**6 + b": 1",
        b"Content-Length: " + b"9" * 5000,
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: -1",
        b"Transfer-Encoding: gzip",
        b"X-Null: \0",
        b"Broken",
    ],
    ids=[
        "long value",
        "many",
        "long name",
        "huge length",
        "two lengths",
        "negative length",
        "coding",
        "NUL",
        "no colon",
    ],
)
def test_floods_and_nonsense_in_headers_are_4xx(gateway: Gateway, flood: bytes) -> None:
    with gateway.connect() as connection:
        with suppress(ConnectionError):  # it may have heard enough; what it said is there to read
            connection.sendall(HEAD + flood + b"\r\n\r\n")
        status, problem = answer_to(connection)
    assert status == problem["status"]
    assert status == 431 if len(flood) > 2 * MAX_HEAD else 400 <= status < 500
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200


def test_headers_behind_a_body_are_no_way_around_the_limit(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n")
        assert trickle(connection, b"X: 1\r\n" * 1000, pause_s=0.01) < 5
        assert answer_to(connection)[0] == 431


def test_a_request_without_a_host_is_refused(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert answer_to(connection)[0] == 400
    with gateway.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_nonsense_behind_a_request_does_not_get_into_its_answer(gateway: Gateway) -> None:
    job = httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x"}).json()
    head = f"GET {job['urls']['events']} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with gateway.connect() as connection:
        connection.settimeout(10)
        connection.sendall(head)
        received = connection.recv(65536)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nBROKEN\r\n\r\n")
        time.sleep(0.5)
        assert httpx.delete(f"{gateway.url}{job['urls']['self']}").status_code == 200  # which ends the stream
        while part := connection.recv(65536):
            received += part
    stream, health, refusal = received.split(b"HTTP/1.1 ")[1:]  # in the order in which they were asked for
    assert stream.startswith(b"200") and b"event: cancelled" in stream and stream.endswith(b"0\r\n\r\n")
    assert health.startswith(b"200") and health.endswith(b'{"status":"ok"}')
    assert refusal.startswith(b"400") and b"application/problem+json" in refusal
    assert "Traceback" not in gateway.log()


def test_nonsense_behind_a_submit_does_not_take_its_answer(gateway: Gateway) -> None:
    body = b'{"prompt": "x"}'
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    with gateway.connect() as connection:
        connection.settimeout(10)
        connection.sendall(head + body + b"BROKEN\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    made, refusal = received.split(b"HTTP/1.1 ")[1:]
    assert made.startswith(b"202") and b'"status":"queued"' in made and made.endswith(b"}")
    assert refusal.startswith(b"400") and b"application/problem+json" in refusal


def test_a_body_of_two_lengths_is_refused_and_ends_the_connection(gateway: Gateway) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    chunked = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(smuggled) + 5)
    for method in (b"POST", b"GET"):
        with gateway.connect() as connection:
            connection.sendall(HEAD.replace(b"POST", method) + chunked + smuggled)
            assert answer_to(connection)[0] == (400 if method == b"POST" else 405)


@pytest.mark.parametrize("framing", ["together", "apart", "chunked"])
def test_an_offer_to_upgrade_is_passed_over(gateway: Gateway, framing: str) -> None:
    body = b'{"prompt": "x"}'
    head = HEAD + OFFER
    with gateway.connect() as connection:
        connection.settimeout(10)
        if framing == "chunked":
            head += b"Transfer-Encoding: chunked\r\n\r\n"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            head += b"Content-Length: %d\r\n\r\n" % len(body)
        if framing == "apart":
            connection.sendall(head)
            time.sleep(0.2)
            connection.sendall(body)
        else:
            connection.sendall(head + body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 202")
        if framing == "chunked":  # and the next one after it
            connection.sendall(head + body + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(65536), b""))
            assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"202", b"200"]
    assert "pgrade" not in gateway.log()


def test_what_stands_behind_a_body_is_no_header(gateway: Gateway) -> None:
    body = b'{"prompt": "x"}'
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with gateway.connect() as connection:
        connection.sendall(head + b"%x\r\n%s\r\n0\r\nX-Request-ID: behind\r\n\r\n" % (len(body), body))
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 202")
    assert b"behind" not in received


def test_a_body_that_goes_on_behind_a_stream_of_events_is_no_error_of_ours(start_gateway: Start) -> None:
    gateway = start_gateway(body_timeout_s=1)
    job = httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x"}).json()
    head = f"GET {job['urls']['events']} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with gateway.connect() as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"1\r\n \r\n")
        time.sleep(2)
    assert "Traceback" not in gateway.log()


def test_two_thousand_idle_connections_leave_room_for_a_request(start_gateway: Start) -> None:
    if raise_file_limit() < 4096:
        pytest.skip("may not open as many files")
    gateway = start_gateway(ulimit="-S -n 512")
    with ExitStack() as idle:
        for i in range(2000):
            connection = idle.enter_context(gateway.connect())
            if i % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nX-Unfinished: ")
        started = time.monotonic()
        answer = httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x"}, timeout=20)
        assert answer.status_code == 202, answer.text
        assert time.monotonic() - started < 10


def test_connections_over_the_limit_of_files_are_turned_away_and_later_taken_again(start_gateway: Start) -> None:
    gateway = start_gateway(ulimit="-n 160", headers_timeout_s=1)
    with ExitStack() as idle:
        connections = [idle.enter_context(gateway.connect()) for _ in range(300)]
        for connection in connections:  # some at once, the others when their time is up
            connection.settimeout(10)
            assert connection.recv(1) == b""
        assert httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x"}).status_code == 202


def test_an_upload_that_is_given_up_is_no_error_of_ours(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.sendall(HEAD + b"X-Request-ID: gone\r\nContent-Length: 1000\r\n\r\n{")
    deadline = time.monotonic() + 10
    while "[request_id=gone]" not in gateway.log() and time.monotonic() < deadline:
        time.sleep(0.05)
    line = next(line for line in gateway.log().splitlines() if "request_id=gone" in line)
    assert " 499 " in line
    assert "Traceback" not in gateway.log()


@pytest.mark.parametrize("offer", [b"", OFFER], ids=["plain", "with an offer to upgrade"])
def test_who_hangs_up_waits_no_more_and_the_job_goes_on(start_gateway: Start, offer: bytes) -> None:
    gateway = start_gateway()
    body = b'{"prompt":"x"}'
    wait = HEAD + offer + b"Prefer: wait=120\r\nX-Request-ID: gone-%d\r\nContent-Length: %d\r\n\r\n%s"
    with ExitStack() as connections:
        for i in range(50):
            connections.enter_context(gateway.connect()).sendall(wait % (i, len(body), body))
        eventually(lambda: len(httpx.get(f"{gateway.url}/v1/jobs?limit=100").json()["data"]) == 50, 20)
    eventually(lambda: sum(" 499 " in line and "gone-" in line for line in gateway.log().splitlines()) == 50, 10)
    jobs = httpx.get(f"{gateway.url}/v1/jobs?limit=100").json()["data"]
    assert [job["status"] for job in jobs] == ["queued"] * 50
    assert "Traceback" not in gateway.log()


def test_many_streams_of_events_opened_at_once_are_all_served(start_gateway: Start) -> None:
    if raise_file_limit() < 2048:
        pytest.skip("may not open as many files")
    gateway = start_gateway()
    job = httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x"}).json()
    head = f"GET {job['urls']['events']} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with ExitStack() as streams:
        connections = [streams.enter_context(gateway.connect()) for _ in range(600)]
        for connection in connections:
            connection.sendall(head)
        assert httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x"}, timeout=30).status_code == 202
        for connection in connections:
            received = b""
            while b"event: status" not in received:
                part = connection.recv(65536)
                assert part, received
                received += part
            assert received.startswith(b"HTTP/1.1 200")
