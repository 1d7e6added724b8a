"""What a client gets: a request in, an image out, in each of the ways the API offers."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.end_to_end.bodies import TASKS, input_size, output_size, request
from tests.end_to_end.serving import TERMINAL, Served, picture


def opened(data: bytes, kind: str = "PNG") -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == kind
    return image


@pytest.mark.parametrize("task", TASKS)
def test_a_post_that_accepts_png_is_answered_with_one(served: Served, task: str) -> None:
    answer = served.http.post(f"/v1/{task}", json=request(served, task), headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["X-Seed"] == "7"
    assert opened(answer.content).size == output_size(served, task)
    assert served.image(answer.headers["X-Job-ID"]) == answer.content


@pytest.mark.parametrize("task", TASKS)
def test_the_same_request_as_multipart_gives_the_same_picture(served: Served, task: str) -> None:
    body = request(served, task)
    parts: list[tuple[str, Any]] = [
        (name, (f"{name}.png", picture(*input_size(served, task), mode), "image/png"))
        for name, mode in (("image", "RGB"), ("mask", "L"))
        if name in body
    ]
    # A part without a file name is a form field: written so, the client sends multipart even where there is no file.
    parts += [(name, (None, str(value))) for name, value in body.items() if name not in {"image", "mask"}]
    accept = {"Accept": "image/png"}
    answer = served.http.post(f"/v1/{task}", files=parts, headers=accept)
    assert answer.status_code == 200, answer.text
    assert answer.content == served.http.post(f"/v1/{task}", json=body, headers=accept).content


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_what_is_accepted_is_what_comes_unless_the_body_names_another_format(served: Served, kind: str) -> None:
    body, headers = request(served, "txt2img"), {"Accept": f"image/{kind}"}
    answer = served.http.post("/v1/txt2img", json=body, headers=headers)
    assert answer.headers["Content-Type"] == f"image/{kind}"
    opened(answer.content, kind.upper())
    named = served.http.post("/v1/txt2img", json={**body, "format": "png"}, headers=headers)
    assert named.headers["Content-Type"] == "image/png"


def test_curl_as_the_start_message_shows_it_makes_a_file(served: Served, tmp_path: Path) -> None:
    subprocess.run(
        ["curl", "-sS", "--fail-with-body", f"{served.url}/v1/txt2img", "-H", "Accept: image/png",
         "-H", "Content-Type: application/json", "-d", '{"prompt":"a red house by the sea at sunset"}',
         "-o", str(tmp_path / "out.png")],
        check=True,
    )  # fmt: skip
    opened((tmp_path / "out.png").read_bytes())


def test_prefer_wait_answers_with_the_finished_job(served: Served) -> None:
    body = request(served, "txt2img", n=2, metadata={"order": "17"})
    answer = served.http.post("/v1/txt2img", json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded"
    assert job["progress"] == 1.0
    assert [image["seed"] for image in job["images"]] == [7, 8]
    for image in job["images"]:
        data = served.http.get(image["url"])
        assert data.headers["ETag"].strip('"') == image["sha256"]
        assert len(data.content) == image["bytes"]


def test_a_wait_that_is_too_short_answers_with_the_job_as_it_is(served: Served) -> None:
    answer = served.http.post("/v1/txt2img", json=request(served, "txt2img", steps=1000), headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    job = answer.json()
    assert job["status"] not in TERMINAL
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    served.http.delete(answer.headers["Location"])


def test_image_i_of_a_job_is_image_0_of_a_job_with_its_seed(served: Served) -> None:
    many = served.submit("txt2img", **request(served, "txt2img", n=3, seed=40))
    one = served.submit("txt2img", **request(served, "txt2img", seed=42))
    assert served.finished(many["id"])["images"][2]["sha256"] == served.finished(one["id"])["images"][0]["sha256"]


def test_the_picture_carries_its_parameters(served: Served) -> None:
    job = served.submit("txt2img", **request(served, "txt2img"))
    served.finished(job["id"])
    parameters = json.loads(opened(served.image(job["id"])).info["parameters"])
    assert parameters["prompt"] == "a red house by the sea"
    assert parameters["seed"] == 7


@pytest.mark.parametrize(("name", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_are_what_they_say(served: Served, name: str, kind: str) -> None:
    job = served.submit("txt2img", **request(served, "txt2img", format=name))
    served.finished(job["id"])
    answer = served.http.get(f"/v1/jobs/{job['id']}/images/0")
    assert answer.headers["Content-Type"] == f"image/{name}"
    opened(answer.content, kind)


def test_a_bad_request_never_reaches_the_worker(served: Served) -> None:
    before = served.metrics()[1].count("ldm_jobs_total{")
    bad = [
        {"prompt": 5},
        {"prompt": "a", "guidence_scale": 3},
        {"prompt": "a", "steps": 0},
        {"prompt": "a", "width": 3},
    ]
    for body in bad:
        answer = served.http.post("/v1/txt2img", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["errors"][0]["pointer"].startswith("/")
    assert served.metrics()[1].count("ldm_jobs_total{") == before
