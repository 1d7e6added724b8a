"""What uploads may take of the gateway's memory: one of any form, many at once, and those that never end."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from service.errors import Problem
from service.http.memory import UNCOUNTED, BodyBudget, HeldBody
from tests.abuse.gateway import Gateway
from tests.end_to_end.serving import eventually

pytestmark = pytest.mark.slow

Start = Callable[..., Gateway]
MIB = 2**20
JSON = {"Content-Type": "application/json"}


def in_base64(size: int) -> str:
    return base64.b64encode(os.urandom(size * 3 // 4)).decode()


def with_image(text: str) -> bytes:
    return f'{{"prompt":"x","image":"{text}"}}'.encode()


def resident(gateway: Gateway, field: str = "VmRSS") -> int:
    """Bytes."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def forget_peak(gateway: Gateway) -> None:
    Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")


def descriptors(gateway: Gateway, kind: str) -> int:
    found = 0
    for entry in Path(f"/proc/{gateway.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += kind in os.readlink(entry)
    return found


def upload(gateway: Gateway, body: bytes) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/txt2img", content=body, headers=JSON, timeout=60)


BODIES: dict[str, Callable[[], bytes]] = {
    "base64": lambda: with_image(in_base64(12 * MIB)),
    "base64 with spaces": lambda: with_image(" ".join(["AAAA"] * (12 * MIB // 5))),
    "a data: URL": lambda: with_image("data:image/png;base64," + in_base64(12 * MIB)),
    "escapes": lambda: with_image("\\/" * (6 * MIB)),
    "a wide character": lambda: with_image(in_base64(12 * MIB)).replace(b"x", "\U0001f3e0".encode(), 1),
    "wide characters": lambda: with_image("\U0001f3e0" * (3 * MIB)),
    "spaces": lambda: b'{"prompt":1' + b" " * (12 * MIB) + b"}",
}


def test_no_body_takes_more_than_a_few_times_its_size(start_gateway: Start) -> None:
    gateway = start_gateway()
    upload(gateway, with_image(in_base64(MIB)))  # what is loaded only then does not count
    for name, make in BODIES.items():
        body = make()
        before = resident(gateway)
        forget_peak(gateway)
        assert upload(gateway, body).status_code == 422, name
        times = 6 if name == "a wide character" else 4  # a Python string takes four bytes for each character then
        assert resident(gateway, "VmHWM") - before < times * len(body) + 8 * MIB, name


def test_uploads_at_once_share_one_budget_and_memory_comes_back(start_gateway: Start) -> None:
    gateway = start_gateway(max_body_bytes=8 * MIB, bodies_budget_bytes=32 * MIB)
    body = with_image(in_base64(8 * MIB - 100))
    before = resident(gateway)
    forget_peak(gateway)
    with ThreadPoolExecutor(40) as crowd:
        answers = list(crowd.map(lambda _: upload(gateway, body), range(40)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {422, 503}
    assert {answer.headers["retry-after"] for answer in refused} == {"2"}
    assert "large requests" in refused[0].json()["detail"]
    assert resident(gateway, "VmHWM") - before < (32 + 4 * 3 * 8 + 32) * MIB  # the budget, four threads' copies
    eventually(lambda: upload(gateway, body).status_code == 422, 10)
    assert resident(gateway) - before < 64 * MIB


def test_unfinished_uploads_hold_the_budget_and_keep_no_small_request_out(start_gateway: Start) -> None:
    gateway = start_gateway(max_body_bytes=8 * MIB, bodies_budget_bytes=16 * MIB)
    body = with_image(in_base64(8 * MIB - 100))
    before = resident(gateway)
    with ExitStack() as connections:
        for _ in range(20):
            connection = connections.enter_context(gateway.connect())
            with suppress(OSError):  # refused, and closed, before its end
                connection.sendall(b"POST /v1/txt2img HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
                connection.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body[:-9])
        assert upload(gateway, body).status_code == 503
        assert upload(gateway, b'{"prompt":"x"}').status_code == 202
        assert resident(gateway) - before < 64 * MIB
    eventually(lambda: upload(gateway, body).status_code == 422, 10)


def test_a_client_that_reads_only_after_all_is_sent_gets_the_refusal(start_gateway: Start) -> None:
    gateway = start_gateway(max_body_bytes=8 * MIB, bodies_budget_bytes=16 * MIB, body_timeout_s=3)
    before = descriptors(gateway, "socket:")

    def status(body: bytes, declared: int) -> int:
        with gateway.connect() as connection:
            connection.settimeout(20)
            head = b"POST /v1/txt2img HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % declared + body)
            time.sleep(0.2)
            return int(connection.makefile("rb").readline().split()[1])

    over_budget, too_large = with_image(in_base64(7 * MIB)), with_image(in_base64(30 * MIB))
    with ThreadPoolExecutor(12) as crowd:
        assert set(crowd.map(lambda _: status(over_budget, len(over_budget) + 9), range(12))) == {408, 503}
        assert set(crowd.map(lambda _: status(too_large, len(too_large)), range(8))) == {413}
    assert status(b"{", 100) == 408
    eventually(lambda: descriptors(gateway, "socket:") <= before, 10)


def test_files_of_an_upload_that_is_given_up_are_deleted(start_gateway: Start) -> None:
    gateway = start_gateway()
    head = b"POST /v1/txt2img HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + bytes(4 * MIB)
    with gateway.connect() as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % (len(form) + 100) + form)
        eventually(lambda: descriptors(gateway, "(deleted)") == 1, 10)
    eventually(lambda: descriptors(gateway, "(deleted)") == 0, 10)


def test_one_key_takes_half_of_the_budget_and_gives_it_back() -> None:
    budget = BodyBudget(8 * MIB)
    first, second, other = HeldBody(budget), HeldBody(budget), HeldBody(budget)
    first.add(4 * MIB, "a")
    with pytest.raises(Problem) as refusal:
        second.add(MIB, "a")
    assert (refusal.value.status, refusal.value.headers["Connection"]) == (503, "close")
    HeldBody(budget).add(UNCOUNTED, "a")
    other.add(4 * MIB, "b")
    first.release()
    first.release()
    second.add(MIB, "a")


def test_a_budget_that_holds_no_body_is_refused_at_the_start(start_gateway: Start) -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match="LDM_BODIES_BUDGET_BYTES=1000 must be at least twice LDM_MAX_BODY_BYTES"):
        start_gateway(bodies_budget_bytes=1000)
    assert time.monotonic() - started < 30
