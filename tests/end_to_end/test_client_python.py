"""`clients/python` against `ldm serve`: each scenario with the client that waits and with the one that awaits."""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import ldm_client
from ldm_client import AsyncClient, Client
from tests.end_to_end.bodies import request
from tests.end_to_end.serving import ROOT, Served, eventually, picture

pytestmark = pytest.mark.slow

Serve = Callable[..., Served]
PROMPT = "a red house by the sea"
QUICK: dict[str, Any] = {"seed": 7, "steps": 3}
LONG: dict[str, Any] = {"seed": 7, "steps": 1000, "n": 8}
ALICE = "ldm_alice-0123456789"


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("LDM_SERVER", "LDM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return request.param


@pytest.fixture
async def client(kind: Any, served: Served) -> AsyncIterator[Any]:
    client = kind(served.url)
    yield client
    await got(client.close())


async def got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def each(values: Any) -> AsyncIterator[Any]:
    if hasattr(values, "__aiter__"):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


async def test_a_prompt_becomes_an_image(client: Any, served: Served, tmp_path: Path) -> None:
    job = await got(client.txt2img(PROMPT, n=2, metadata={"for": "a test"}, **QUICK))
    assert (job.status, job.ended, job.images) == ("queued", False, [])
    assert await got(job.wait(timeout=60)) is job
    assert (job.status, job.task, job.seed, job.progress, job.warnings) == ("succeeded", "txt2img", 7, 1.0, [])
    first, second = job.images
    assert (first.width, first.height, first.content_type, second.seed) == (64, 64, "image/png", 8)
    data = await got(first.bytes())
    assert hashlib.sha256(data).hexdigest() == first.sha256
    await got(second.save(tmp_path / "second.png"))
    assert (tmp_path / "second.png").read_bytes() == await got(second.bytes())
    assert (await got(second.pil())).size == (64, 64)
    again = await got(client.job(job.id))
    assert again.raw == job.raw == served.job(job.id)
    assert again.request["metadata"] == {"for": "a test"}


async def test_an_edit_takes_images_however_they_are_given(client: Any, tmp_path: Path) -> None:
    image, mask = picture(64, 64), picture(64, 64, "L")
    (tmp_path / "photo.png").write_bytes(image)
    ways = [
        (image, mask),
        (str(tmp_path / "photo.png"), io.BytesIO(mask)),
        (tmp_path / "photo.png", Image.open(io.BytesIO(mask))),
    ]
    made = [await got(client.inpaint(one, other, prompt=PROMPT, **QUICK)) for one, other in ways]
    sums = {(await got(job.wait(60))).images[0].sha256 for job in made}
    assert len(sums) == 1
    drawn = await got(made[0].images[0].pil())
    assert drawn.getpixel((2, 2)) == Image.open(io.BytesIO(image)).getpixel((2, 2))
    with pytest.raises(TypeError, match="an image is"):
        await got(client.superres(io.StringIO("text")))


async def test_an_image_is_enlarged_and_another_changed(client: Any) -> None:
    small = picture(32, 32)
    enlarged = await got((await got(client.superres(small, **QUICK))).wait(60))
    assert (enlarged.images[0].width, enlarged.images[0].height) == (128, 128)
    changed = await got((await got(client.img2img(picture(64, 64), PROMPT, strength=0.5, **QUICK))).wait(60))
    assert changed.request["strength"] == 0.5


async def test_a_job_is_followed_with_previews(client: Any) -> None:
    job = await got(client.txt2img(PROMPT, seed=7, steps=400))
    first, *middle, last = [event async for event in each(job.events(preview=True))]
    assert isinstance(first, ldm_client.StatusEvent) and isinstance(last, ldm_client.StatusEvent)
    assert last.ended and last.status == job.status == "succeeded" and len(job.images) == 1
    steps = [event.step for event in middle if isinstance(event, ldm_client.ProgressEvent)]
    assert len(steps) > 5 and steps == sorted(steps)  # one that has a preview may be told again
    previews = [event.preview for event in middle if isinstance(event, ldm_client.ProgressEvent) and event.preview]
    assert len(previews) >= 2
    assert Image.open(io.BytesIO(previews[-1])).format == "JPEG"
    (only,) = [event async for event in each(job.events())]
    assert only.ended


async def test_a_job_is_cancelled(client: Any) -> None:
    job = await got(client.txt2img(PROMPT, **LONG))
    await got(job.cancel())
    with pytest.raises(ldm_client.JobCancelled):
        await got(job.wait(60))
    assert job.status == "cancelled"


async def test_the_caller_s_jobs_are_listed_over_pages(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldm_client.flows, "PAGE", 2)
    made = [(await got(client.txt2img(PROMPT, **QUICK))).id for _ in range(5)]
    listed = [job.id async for job in each(client.jobs(limit=5))]
    assert listed == made[::-1]
    assert {job.status async for job in each(client.jobs("cancelled"))} <= {"cancelled"}


async def test_models_are_told_with_all_that_the_server_says_of_them(client: Any, served: Served) -> None:
    models = await got(client.models())
    assert [model.raw for model in models] == served.http.get("/v1/models").json()["data"]
    scenes = next(model for model in models if "txt2img" in model.default_for)
    assert scenes.native_size == [64, 64] and "ddim" in scenes.samplers


async def test_what_is_wrong_is_told_by_its_kind(client: Any, served: Served) -> None:
    with pytest.raises(ldm_client.ValidationError) as refused:
        await got(client.txt2img(PROMPT, steps=5000, extra={"guidance": 3}))
    assert {*refused.value.pointers} == {"/steps", "/guidance"}
    assert refused.value.status == 422 and refused.value.request_id and refused.value.errors[0].detail
    with pytest.raises(ldm_client.NotFound):
        await got(client.job("nowhere"))
    with pytest.raises(ldm_client.ValidationError, match="class2img"):
        await got(client.class2img(1, model="scenes"))
    slow = await got(client.txt2img(PROMPT, timeout=1, **LONG))
    with pytest.raises(ldm_client.WaitTimeout):
        await got(slow.wait(timeout=0.1))
    with pytest.raises(ldm_client.JobFailed, match="failed") as failed:
        await got(slow.wait(timeout=60))
    assert failed.value.problem["status"] == 504


async def test_a_wrong_key_is_refused_at_once_and_a_right_one_comes_from_the_environment(
    kind: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(api_keys=f"alice:{ALICE}")
    service.wait_until_ready()
    wrong = kind(service.url, "ldm_mallory")
    begun = time.monotonic()
    with pytest.raises(ldm_client.Unauthorized):
        await got(wrong.txt2img(PROMPT))
    assert time.monotonic() - begun < 2
    await got(wrong.close())
    monkeypatch.setenv("LDM_SERVER", service.url + "/")
    monkeypatch.setenv("LDM_API_KEY", ALICE)
    right = kind()
    job = await got((await got(right.txt2img(PROMPT, **QUICK))).wait(60))
    assert httpx.get(service.url + job.images[0].signed_url).content == await got(job.images[0].bytes())
    await got(right.close())


async def test_a_full_queue_is_waited_for_as_it_says(kind: Any, serve: Serve) -> None:
    service = serve(queue_limit=1)
    service.wait_until_ready()
    first = service.submit("txt2img", **request(service, "txt2img", steps=300))
    hasty = kind(service.url, retry_for=0)
    with pytest.raises(ldm_client.RateLimited) as refused:
        await got(hasty.txt2img(PROMPT, **QUICK))
    assert refused.value.retry_after is not None and refused.value.retry_after >= 1
    patient = kind(service.url, retry_for=60)
    job = await got((await got(patient.txt2img(PROMPT, **QUICK))).wait(60))
    assert service.job(first["id"])["status"] == "succeeded" == job.status
    await got(hasty.close())
    await got(patient.close())


@pytest.fixture
def later() -> Iterator[Callable[..., None]]:
    """Does something in a thread after a while; the test's end waits for it."""
    threads: list[threading.Timer] = []

    def start(seconds: float, what: Callable[[], object]) -> None:
        threads.append(threading.Timer(seconds, what))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


async def test_events_go_on_when_the_gateway_was_killed(kind: Any, serve: Serve) -> None:
    service = serve()
    service.wait_until_ready()
    client = kind(service.url)
    job = await got(client.txt2img(PROMPT, **{**LONG, "steps": 250}))
    (gateway,) = service.processes("service\0gateway")
    heard = []
    async for event in each(job.events()):
        if len(heard) == 5:
            os.kill(gateway, signal.SIGKILL)
        heard.append(event)
    assert service.processes("service\0gateway") != [gateway]
    assert heard[-1].status == "succeeded" and len(job.images) == 8
    steps = [event.step for event in heard if isinstance(event, ldm_client.ProgressEvent)]
    assert steps == sorted(steps) and len(heard) > 20
    await got(client.close())


async def test_a_wait_goes_on_over_a_restart_of_the_whole_service(kind: Any, serve: Serve, later: Any) -> None:
    service = serve(drain_s=0.2)
    service.wait_until_ready()
    client = kind(service.url, retry_for=60)
    job = await got(client.txt2img(PROMPT, **{**LONG, "steps": 200}))
    service.running(job.id)

    def restart() -> None:
        assert service.stop() == 0
        serve(port=service.port)

    later(0.2, restart)
    await got(job.wait(timeout=80))
    assert job.status == "succeeded" and len(await got(job.images[7].bytes())) > 100
    await got(client.close())


@pytest.mark.parametrize("broken", [httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout])
def test_a_repeat_after_a_lost_answer_makes_no_second_job(served: Served, broken: type[httpx.TransportError]) -> None:
    class Loses(httpx.HTTPTransport):
        """A network on which the first answer gets lost."""

        lost = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "POST" and not self.lost:
                self.lost += 1
                response.close()
                raise broken("lost")
            return response

    transport = Loses()
    with Client(served.url, transport=transport) as client:
        before = {job.id for job in client.jobs()}
        job = client.txt2img(PROMPT, **QUICK)
        assert {made.id for made in client.jobs()} - before == {job.id}
    assert transport.lost == 1


def test_a_killed_client_finds_its_job_again_by_its_key(served: Served) -> None:
    program = (
        "import ldm_client, sys\n"
        f"job = ldm_client.Client({served.url!r}).txt2img({PROMPT!r}, steps=3, idempotency_key=sys.argv[1])\n"
        "print(job.id, flush=True)\njob.wait()\nimport time; time.sleep(60)"
    )
    ids = []
    for _ in range(2):
        env = os.environ | {"PYTHONPATH": str(ROOT / "clients" / "python")}
        command = [sys.executable, "-c", program, f"order-{os.getpid()}"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ids.append(process.stdout.readline())
            process.kill()
    assert ids[0] == ids[1] and len(ids[0]) > 10
    eventually(lambda: served.job(ids[0].strip())["status"] == "succeeded")


async def test_any_other_path_is_read_as_text(client: Any) -> None:
    assert '"ready"' in await got(client.read("/readyz"))
    with pytest.raises(ldm_client.NotFound):
        await got(client.read("/nowhere"))


def test_no_server_is_told_within_the_time_that_retries_may_take(caplog: pytest.LogCaptureFixture) -> None:
    with Client("http://127.0.0.1:9", retry_for=1) as client, pytest.raises(ldm_client.ConnectionFailed):
        client.models()
    assert "trying again" in caplog.text
    with pytest.raises(ValueError, match="http"):
        Client("localhost:8000")


def test_what_is_no_ldm_service_is_named(served: Served) -> None:
    with Client(served.url + "/docs?") as client, pytest.raises(ldm_client.ApiError, match="is no JSON object"):
        client.models()
