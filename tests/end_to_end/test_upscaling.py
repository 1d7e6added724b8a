"""One request that draws and enlarges, over HTTP and with the models that are shipped."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.bodies import request
from tests.end_to_end.serving import Served

pytestmark = pytest.mark.slow


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("task", ["txt2img", "inpaint"])
def test_the_image_is_what_two_requests_would_give(served: Served, task: str) -> None:
    asked = request(served, task, n=2)
    drawn = served.finished(served.submit(task, **asked)["id"])
    both = served.finished(served.submit(task, **asked, upscale=True)["id"])
    assert [image["width"] for image in both["images"]] == [4 * image["width"] for image in drawn["images"]]
    assert both["step"] == both["steps"] > drawn["steps"]
    for i, image in enumerate(drawn["images"]):
        small = base64.b64encode(served.image(drawn["id"], i)).decode()
        text = {"prompt": asked["prompt"]}
        alone = served.finished(served.submit("superres", image=small, seed=image["seed"], **text)["id"])
        assert (pixels(served.image(both["id"], i)) == pixels(served.image(alone["id"]))).all()
    said = json.loads(Image.open(io.BytesIO(served.image(both["id"]))).text["parameters"])  # type: ignore[attr-defined]
    given = {name: asked[name] for name in ("image", "mask") if name in asked}
    left_out = {"task", "width", "height"} if given else {"task"}  # where an image gives the size
    again = {name: value for name, value in said.items() if name not in left_out}
    repeated = served.finished(served.submit(task, **again, **given)["id"])
    assert repeated["images"][0]["sha256"] == both["images"][0]["sha256"], "the PNG's parameters make it again"


def test_the_shipped_models_draw_and_enlarge_in_one_answer(builtin: Served) -> None:
    answer = builtin.http.post(
        "/v1/txt2img",
        json={"prompt": "a red house by the sea", "seed": 1, "upscale": True},
        headers={"Accept": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (256, 256)
