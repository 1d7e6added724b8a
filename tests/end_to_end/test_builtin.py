"""`ldm serve` without a word about models: what a newcomer's first request meets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.bodies import TASKS, model_for, output_size, request
from tests.end_to_end.serving import Served
from training.scenes.captions import vocabulary


def test_every_task_has_a_model_by_default(builtin: Served) -> None:
    assert {task: model_for(builtin, task)["id"] for task in TASKS} == {
        "txt2img": "scenes",
        "inpaint": "scenes",
        "superres": "scenes-superres",
    }


@pytest.mark.parametrize("task", TASKS)
def test_the_smallest_request_gives_a_picture_and_not_a_flat_one(builtin: Served, task: str, tmp_path: Path) -> None:
    body = request(builtin, task)
    del body["steps"], body["seed"]
    answer = builtin.http.post(f"/v1/{task}", json=body, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content)).convert("RGB")
    assert picture.size == output_size(builtin, task)
    assert len(set(picture.get_flattened_data())) > 100


def test_a_picture_has_the_same_bytes_alone_and_among_fifteen_others(builtin: Served) -> None:
    wanted = request(builtin, "txt2img", steps=12, guidance_scale=4.0)
    alone = builtin.finished(builtin.submit("txt2img", **wanted)["id"])
    for i in range(15):
        task = TASKS[i % 3]
        builtin.submit(
            task, **request(builtin, task, steps=5 + i, seed=i, sampler=("ddim", "dpmpp_2m", "euler_a")[i % 3])
        )
        if i == 7:
            middle = builtin.submit("txt2img", **wanted)
    among = builtin.finished(middle["id"])
    assert alone["status"] == among["status"] == "succeeded"
    assert builtin.image(alone["id"]) == builtin.image(among["id"])


def test_what_the_model_cannot_draw_is_said_everywhere(builtin: Served) -> None:
    body = {"prompt": "a red dragon by the sea" + ", and a boat" * 40, "n": 2, "steps": 1}
    answer = builtin.http.post("/v1/txt2img", json=body, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    url = f"/v1/jobs/{answer.headers['X-Job-ID']}"
    job = builtin.job(answer.headers["X-Job-ID"])
    codes = [warning["code"] for warning in job["warnings"]]
    assert codes == ["words_unknown", "one_image_answered", "prompt_truncated"]
    assert "dragon" in job["warnings"][0]["detail"]
    assert [line.partition(":")[0] for line in answer.headers.get_list("X-Job-Warning")] == codes
    assert answer.headers.get_list("Link") == [f'<{url}/images/1>; rel="related"']
    assert builtin.http.get(f"{url}/images/1").headers["Content-Type"] == "image/png"
    with builtin.http.stream("GET", f"{url}/events") as stream:
        (data,) = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["warnings"] == job["warnings"]


def test_the_vocabulary_is_every_word_of_the_captions_that_the_model_learned(builtin: Served) -> None:
    assert model_for(builtin, "txt2img")["vocabulary"] == vocabulary()


def test_a_size_beyond_twice_the_trained_one_is_refused(builtin: Served) -> None:
    answer = builtin.http.post("/v1/txt2img", json={"prompt": "a boat", "width": 256, "height": 256})
    assert answer.status_code == 422
    assert "at most 128x128" in answer.json()["detail"]
