"""Requests, images and texts of AUTOMATIC1111's API, without a server: whatever comes is read, or refused by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, PngImagePlugin

from ldm_core.errors import RequestError
from service.answers.infotext import infotext, parsed, read_infotext
from service.errors import Problem, as_problem
from service.intake.repainting import closely, finished_png, resized
from service.intake.web_ui import DrawRequest, EnlargeRequest, read_drawing, read_enlarging
from service.intake.web_ui_names import LABELS, UNFOLLOWED, label_of, read_sampler, read_spacing
from tests.end_to_end.serving import base64_picture

PARAMS = {
    "prompt": "a boat", "negative_prompt": "", "steps": 3, "sampler": "ddim", "guidance_scale": 7.5, "width": 64,
    "height": 48, "eta": 0.0,
}  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["Euler a", "DDIM Karras", "", "None", "64", base64_picture(8, 8), base64_picture(8, 8, "L")]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip
NAMES = [*DrawRequest.model_fields, *EnlargeRequest.model_fields, *UNFOLLOWED]
WHOLE = {"init_images": [base64_picture(8, 8)], "mask": base64_picture(8, 8, "L")}


@settings(max_examples=300, deadline=None)
@given(body=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4), with_image=st.booleans())
def test_any_value_in_any_field_is_read_or_refused(body: dict[str, Any], with_image: bool) -> None:
    assert refusal_of(lambda: read_drawing({**WHOLE, **body}, with_image=with_image, model=None)) in {None, 422}
    assert refusal_of(lambda: read_enlarging(body)) in {None, 422}


def refusal_of(read: Callable[[], Any]) -> int | None:
    """The status with which a body is refused, None for one that is read."""
    try:
        read()
    except (Problem, RequestError) as refused:
        return as_problem(refused).status
    return None


@settings(max_examples=200, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 90)] * 4), mode=st.integers(0, 2), padding=st.integers(0, 9), data=st.data())
def test_any_size_becomes_any_other(sides: tuple[int, ...], mode: int, padding: int, data: st.DataObject) -> None:
    image, size = Image.new("L", sides[:2], 255), (sides[2], sides[3])
    scaled = resized(image, size, mode)
    assert (scaled.size, scaled.getextrema()) == (size, (255, 255))
    x, y = data.draw(st.integers(0, sides[0] - 1)), data.draw(st.integers(0, sides[1] - 1))
    mask = Image.new("L", image.size)
    mask.putpixel((x, y), 255)
    left, top, right, bottom = closely(mask, padding, size)
    assert 0 <= left <= x < right <= image.width
    assert 0 <= top <= y < bottom <= image.height


def test_each_mode_of_resizing_shows_what_it_should() -> None:
    image = Image.new("RGB", (20, 40), "red")
    image.paste("blue", (0, 0, 20, 4))
    cropped, filled = (resized(image, (40, 40), mode) for mode in (1, 2))
    assert cropped.getpixel((20, 0)) == (255, 0, 0)  # the blue edge is cut off
    assert (filled.getpixel((0, 0)), filled.getpixel((39, 39))) == ((0, 0, 255), (255, 0, 0))
    assert ImageChops.difference(filled.crop((10, 0, 30, 40)), image).getbbox() is None


@pytest.mark.parametrize(
    ("name", "ours", "spacing"),
    [("DPM++ 2M Karras", "dpmpp_2m", "karras"), ("euler A", "euler_a", ""), ("k_euler_a", "euler_a", ""),
     ("DPM++ 2M SGM Uniform", "dpmpp_2m", "sgm uniform"), ("plms", "plms", ""),
     ("DPM++ 2M SDE Karras", "dpmpp_2m_sde", "karras"), ("UniPC", "unipc", "")],
)  # fmt: skip
def test_names_of_samplers(name: str, ours: str, spacing: str) -> None:
    assert read_sampler(name) == (ours, spacing)


def test_a_spacing_is_followed_where_the_sampler_has_it() -> None:
    karras = read_drawing({"sampler_name": "DPM++ 2M Karras"}, with_image=False, model=None)
    assert (karras.body.sampler, karras.body.schedule, karras.warnings) == ("dpmpp_2m", "karras", ())
    last = read_drawing({"sampler_name": "Euler Karras", "scheduler": "Exponential"}, with_image=False, model=None)
    assert last.body.schedule == "exponential"
    assert [warning.pointer for warning in last.warnings] == ["/sampler_name"]
    for sent in ({"sampler_name": "DDIM Karras"}, {"scheduler": "Karras"}, {"sampler_name": "Euler Polyexponential"}):
        drawing = read_drawing(sent, with_image=False, model=None)
        assert drawing.body.schedule is None
        assert [warning.code for warning in drawing.warnings] == ["schedule_ignored"]


def test_uniform_overrules_a_models_own_spacing_and_is_no_news_to_timesteps() -> None:
    assert read_spacing("euler", {"scheduler": "Uniform"}) == ("uniform", [])
    assert read_spacing("ddim", {"scheduler": "Uniform"}) == (None, [])
    assert read_spacing("euler", {"scheduler": "Automatic"}) == (None, [])


def test_every_sampler_has_a_name_there() -> None:
    assert [label_of(name) for name in LABELS.values()] == [*LABELS]


def test_eta_counts_for_ddim_and_is_said_to_be_nothing_for_euler_a() -> None:
    ddim = read_drawing({"sampler_name": "DDIM", "eta": 0.5}, with_image=False, model=None)
    assert (ddim.body.eta, ddim.warnings) == (0.5, ())
    ancestral = read_drawing({"sampler_name": "Euler a", "eta": 0.5}, with_image=False, model=None)
    assert [warning.pointer for warning in ancestral.warnings] == ["/eta"]
    assert not read_drawing({"sampler_name": "Euler", "eta": 0.5}, with_image=False, model=None).warnings


def test_a_text_is_read_as_it_was_written() -> None:
    text = infotext({**PARAMS, "negative_prompt": "red,\nblue", "strength": 0.5}, 'a, "b"', 9)
    assert text.endswith('Size: 64x48, Model: "a, \\"b\\"", Denoising strength: 0.5, Version: ldm-service')
    assert parsed(text) == {
        "Prompt": "a boat", "Negative prompt": "red,\nblue", "Steps": "3", "Sampler": "DDIM", "CFG scale": "7.5",
        "Seed": "9", "Size-1": "64", "Size-2": "48", "Model": 'a, "b"', "Denoising strength": "0.5",
        "Version": "ldm-service",
    }  # fmt: skip


def test_texts_of_others_are_left_as_they_are() -> None:
    for text in ("", "just a prompt", "5", "[1]", '{"a": 1}', "{" * 50_000):
        assert read_infotext(text) == text
    assert read_infotext(json.dumps({**PARAMS, "model": "scenes", "seed": 4})).startswith("a boat\nSteps: 3")
    assert parsed("just a prompt")["Prompt"] == "just a prompt"
    assert parsed("") == {}


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    assert all(isinstance(value, str) for value in parsed(read_infotext(text)).values())


@pytest.mark.parametrize("told", [True, False])
def test_a_png_keeps_its_other_texts_and_gets_none_where_it_had_none(told: bool) -> None:
    texts, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    texts.add_itxt("XML:com.adobe.xmp", "<x/>")
    if told:
        texts.add_text("parameters", "{}")
    Image.new("RGB", (2, 2)).save(buffer, "PNG", pnginfo=texts)
    made = Image.open(io.BytesIO(finished_png(buffer.getvalue(), "ein Häuschen 家", None)))
    assert made.info["XML:com.adobe.xmp"] == "<x/>"
    assert made.info.get("parameters") == ("ein Häuschen 家" if told else None)
