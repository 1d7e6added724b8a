"""Keys, idempotency, time-outs and event streams over real processes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.end_to_end.bodies import request
from tests.end_to_end.serving import PATIENCE_S, Served, eventually

Serve = Callable[..., Served]
ALICE, BOB = "ldm_alice-0123456789", "ldm_bob-0123456789"


def events(http: httpx.Client, url: str, query: str = "", **headers: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each event until the server ends the stream. `url` is a job's, or a signed one."""
    with http.stream("GET", url if "?" in url else f"{url}/events{query}", headers=headers) as answer:
        assert answer.status_code == 200
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def test_a_job_is_followed_step_by_step(served: Served) -> None:
    job = served.submit("txt2img", **request(served, "txt2img", steps=100))
    (first, state), *middle, (last, end) = events(served.http, job["urls"]["self"])
    assert (first, last) == ("status", "succeeded")
    assert state["id"] == end["id"] == job["id"]
    steps = [data["step"] for name, data in middle if name == "progress"]
    assert len(steps) > 5
    assert steps == sorted(set(steps))
    assert end == served.job(job["id"])


def test_previews_come_to_whom_asks_and_change_no_byte(served: Served) -> None:
    body = request(served, "txt2img", steps=400)
    jobs = [served.submit("txt2img", **body) for _ in range(2)]
    shown = [
        data["preview"] for _, data in events(served.http, jobs[0]["urls"]["self"], "?preview=1") if "preview" in data
    ]
    assert len(shown) == len(set(shown)) >= 2
    for url in shown:
        head, _, data = url.partition(",")
        assert head == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (picture.format, max(picture.size)) == ("JPEG", 64)
    unseen = events(served.http, jobs[1]["urls"]["self"])
    assert not [data for _, data in unseen if "preview" in data]
    ended = [served.finished(job["id"]) for job in jobs]
    assert ended[0]["images"][0]["sha256"] == ended[1]["images"][0]["sha256"]


def test_who_does_not_read_holds_up_nobody_and_misses_no_end(served: Served) -> None:
    """Events of steps that cannot be sent are dropped; the last one, with the job, is kept until it is read."""
    job = served.submit("txt2img", **request(served, "txt2img", steps=300))
    lazy = [socket.socket() for _ in range(4)]
    for connection in lazy:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", served.port))
        path = f"{job['urls']['events']}?preview=1"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    *_, (last, _) = events(served.http, job["urls"]["self"])
    assert last == "succeeded"
    for connection in lazy:
        with connection, connection.makefile("rb") as stream:
            heard = stream.read()
        assert b"event: succeeded" in heard
        assert heard.count(b"event: progress") < 300


def test_a_job_over_its_own_timeout_fails_and_says_so(served: Served) -> None:
    body = request(served, "txt2img", steps=1000, n=8, timeout=1)
    ended = served.finished(served.submit("txt2img", **body)["id"])
    assert ended["status"] == "failed"
    assert ended["error"]["status"] == 504
    assert ended["request"]["timeout"] == 1


def test_keys_guard_a_server_that_is_open_to_others(serve: Serve) -> None:
    service = serve(host="0.0.0.0", api_keys=f"alice:{ALICE},bob:{BOB}")
    service.wait_until_ready()
    assert service.http.get("/v1/models").status_code == 401
    service.http.headers["Authorization"] = f"Bearer {ALICE}"
    body = request(service, "txt2img")
    job = service.submit("txt2img", **body)
    assert service.http.get(f"/v1/jobs/{job['id']}", headers={"Authorization": f"Bearer {BOB}"}).status_code == 404
    assert service.finished(job["id"])["status"] == "succeeded"
    told = service.log() + "".join(service.metrics())
    assert "key=alice" in told
    assert 'ldm_jobs_submitted_total{key="alice"' in told
    assert "NO API KEYS" not in told
    assert ALICE not in told
    assert BOB not in told


def test_a_page_of_another_origin_follows_a_job_and_shows_its_image_without_a_key(serve: Serve) -> None:
    page = "https://app.example"
    service = serve(api_keys=f"alice:{ALICE}", cors_origins=page)
    service.wait_until_ready()
    alice = {"Authorization": f"Bearer {ALICE}"}
    made = service.http.post("/v1/txt2img", json=request(service, "txt2img", steps=50), headers=alice).json()
    heard = list(events(service.http, made["urls"]["events_signed"], "", Origin=page))
    assert [heard[0][0], heard[-1][0]] == ["status", "succeeded"]
    assert "progress" in {name for name, _ in heard}
    (image,) = heard[-1][1]["images"]  # signed when the event was sent, not when the stream was opened
    shown = service.http.get(image["signed_url"], headers={"Origin": page, "Sec-Fetch-Site": "cross-site"})
    assert hashlib.sha256(shown.content).hexdigest() == image["sha256"]
    assert shown.headers["access-control-allow-origin"] == page
    assert service.http.get(image["url"]).status_code == 401
    told = service.log() + "".join(service.metrics())
    assert "signature" not in told
    assert image["signed_url"].split("=")[1] not in told


@pytest.mark.slow
def test_a_key_of_idempotency_outlives_the_gateway(serve: Serve) -> None:
    service = serve(host="0.0.0.0")
    service.wait_until_ready()
    assert "NO API KEYS" in service.log()
    body, key = request(service, "txt2img"), {"Idempotency-Key": "once"}
    first = service.http.post("/v1/txt2img", json=body, headers=key).json()
    (gateway,) = service.processes("service\0gateway")
    os.kill(gateway, signal.SIGKILL)
    eventually(lambda: [pid for pid in service.processes("service\0gateway") if pid != gateway])
    service.wait_until_ready()
    again = service.http.post("/v1/txt2img", json=body, headers=key)
    assert again.json()["id"] == first["id"]
    assert again.headers["idempotent-replay"] == "true"


@pytest.mark.slow
def test_a_stop_ends_streams_and_waits_whole(serve: Serve) -> None:
    service = serve(drain_s=0.2)
    service.wait_until_ready()
    body = request(service, "txt2img", steps=1000, n=8)
    job = service.submit("txt2img", **body)
    heard: list[tuple[str, dict[str, Any]]] = []
    waited: list[int] = []

    def listen() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            heard.extend(events(client, job["urls"]["self"]))

    def wait() -> None:
        answer = httpx.post(f"{service.url}/v1/txt2img", json=body, headers={"Prefer": "wait=60"}, timeout=60)
        waited.append(answer.status_code)

    threads = [threading.Thread(target=listen), threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(service.http.get("/v1/jobs").json()["data"]) == 2)
    service.running(job["id"])
    assert service.stop() == 0
    for thread in threads:
        thread.join(30)
    assert heard[0][0] == "status"
    assert waited == [202]
    assert "Traceback" not in service.log()
