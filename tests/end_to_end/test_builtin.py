"""`ldm serve` without a word about models: what a newcomer's first request meets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.bodies import TASKS, model_for, output_size, request
from tests.end_to_end.serving import Served


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    service = Served(tmp_path_factory.mktemp("builtin") / "data", models=[])
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


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
