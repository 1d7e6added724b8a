"""Webhooks and real gateway processes: killed ones, whose deliveries others take over, and TLS."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.abuse.gateway import Gateway
from tests.certificates import context_of_localhost
from tests.end_to_end.serving import eventually
from tests.receiver import HANG, SECRET, Receiver, receiving

pytestmark = pytest.mark.slow

Start = Callable[..., Gateway]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def given(receiver: Receiver, *names: str, backoff: str = "2,2") -> dict[str, Any]:
    return {"webhook_hosts": receiver.hosts(*names), "webhook_secret": SECRET, "webhook_private": 1,
            "webhook_backoff_s": backoff}  # fmt: skip


def cancelled(gateway: Gateway, url: str) -> str:
    made = httpx.post(f"{gateway.url}/v1/txt2img", json={"prompt": "x", "webhook": url})
    assert made.status_code == 202, made.text
    job_id = str(made.json()["id"])
    httpx.delete(f"{gateway.url}/v1/jobs/{job_id}").raise_for_status()
    return job_id


def killed(gateway: Gateway) -> None:
    gateway.process.kill()
    gateway.process.wait()


def test_what_a_killed_gateway_was_to_send_later_another_sends_then(start_gateway: Start, receiver: Receiver) -> None:
    receiver.answers = [500] * 5
    first = start_gateway(**given(receiver, backoff="8,8"))
    jobs = [cancelled(first, receiver.url()) for _ in range(5)]
    eventually(lambda: len(receiver.told) == 5)
    time.sleep(0.3)  # its answers have come back
    killed(first)
    start_gateway(**given(receiver))
    eventually(lambda: len(receiver.told) == 10, 20)
    time.sleep(1)
    for job_id in jobs:
        before, after = receiver.of(job_id)
        assert before.id == after.id and after.verified()
        assert 8 <= after.at - before.at < 20  # and not a lease later


def test_what_was_due_while_no_gateway_lived_is_sent_by_the_next(start_gateway: Start, receiver: Receiver) -> None:
    off = start_gateway(**given(receiver))
    off.process.terminate()
    off.process.wait(20)
    first = start_gateway(**given(receiver))
    receiver.answers = [500]
    job_id = cancelled(first, receiver.url())
    eventually(lambda: receiver.told)
    time.sleep(0.3)
    killed(first)
    time.sleep(2.5)  # the next attempt is overdue
    assert len(receiver.told) == 1
    start_gateway(**given(receiver))
    eventually(lambda: len(receiver.told) == 2, 5)
    assert {told.job_id for told in receiver.told} == {job_id}


def test_an_attempt_in_which_a_gateway_was_killed_is_made_again_by_another(
    start_gateway: Start, receiver: Receiver
) -> None:
    receiver.answers = [HANG]
    first, second = start_gateway(**given(receiver)), start_gateway(**given(receiver))
    job_id = cancelled(first, receiver.url())
    eventually(lambda: receiver.told)
    # whichever of them took it: the one that logs nothing of it is the other, so both are ended and a third one serves
    killed(first)
    killed(second)
    start_gateway(**given(receiver))
    eventually(lambda: len(receiver.told) == 2, 40)
    before, after = receiver.told
    assert before.id == after.id and {before.job_id, after.job_id} == {job_id}
    assert after.at - before.at < 27  # a lease, and a look


def test_a_gateway_that_is_told_to_end_ends_what_it_is_sending(start_gateway: Start, receiver: Receiver) -> None:
    gateway = start_gateway(**given(receiver))
    for _ in range(8):
        cancelled(gateway, receiver.url())
    gateway.process.terminate()
    assert gateway.process.wait(20) in {0, -signal.SIGTERM}
    start_gateway(**given(receiver))
    eventually(lambda: len(receiver.told) == 8, 5)
    time.sleep(0.5)
    assert len({told.job_id for told in receiver.told}) == len(receiver.told) == 8


def test_a_hanging_receiver_does_not_keep_a_gateway_from_ending(start_gateway: Start, receiver: Receiver) -> None:
    receiver.answers = [HANG]
    gateway = start_gateway(**given(receiver))
    cancelled(gateway, receiver.url())
    eventually(lambda: receiver.told)
    begun = time.monotonic()
    gateway.process.terminate()
    assert gateway.process.wait(20) in {0, -signal.SIGTERM}
    assert time.monotonic() - begun < 6


def test_the_certificate_is_held_against_the_name(
    start_gateway: Start, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of_localhost(tmp_path)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    distrusting = start_gateway(**given(receiver, "localhost", "127.0.0.1", backoff="600"))
    cancelled(distrusting, receiver.url(scheme="https"))
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in distrusting.log())
    killed(distrusting)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    trusting = start_gateway(**given(receiver, "localhost", "127.0.0.1", backoff="600"))
    cancelled(trusting, receiver.url("127.0.0.1", scheme="https"))
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in trusting.log())
    assert not receiver.told
    job_id = cancelled(trusting, receiver.url(scheme="https"))
    (told,) = eventually(lambda: receiver.told)
    assert told.verified()["data"]["id"] == job_id
