"""Every kind of bad input: a 4xx problem that names field and limit, and nothing queued."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image
from redis import Redis

from tests.service.problems import assert_problem, assert_refused

pytestmark = pytest.mark.usefixtures("announced")
Encoded = Callable[..., bytes]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def huge_png() -> bytes:
    """A header that says 60000 x 60000, and no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def animated(form: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


SCALARS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no prompt": ({"prompt": None}, "/prompt", "is required"),
    "unknown field": ({"guidence_scale": 3}, "/guidence_scale", "not a field"),
    "wrong type": ({"steps": "20"}, "/steps", "integer"),
    "bool for int": ({"steps": True}, "/steps", "integer"),
    "too many steps": ({"steps": 1001}, "/steps", "1000"),
    "no steps": ({"steps": 0}, "/steps", "1"),
    "guidance": ({"guidance_scale": 31}, "/guidance_scale", "30"),
    "guidance's end": ({"guidance_start": 0.5, "guidance_end": 0.5}, "/guidance_end", "greater than guidance_start"),
    "a schedule of levels for timesteps": (
        {"sampler": "ddim", "schedule": "karras"},
        "/schedule",
        "counts in timesteps",
    ),
    "a schedule nobody knows": (
        {"sampler": "euler", "schedule": "cosine"},
        "/schedule",
        "must be one of uniform, karras",
    ),
    "guidance's start": ({"guidance_start": 1.5}, "/guidance_start", "1"),
    "eta": ({"eta": 1.5}, "/eta", "1"),
    "seed": ({"seed": 2**32}, "/seed", "4294967295"),
    "n": ({"n": 9}, "/n", "8"),
    "prompt too long": ({"prompt": "x" * 2001}, "/prompt", "2000"),
    "size not a multiple": ({"width": 70}, "/width", "multiple of 16"),
    "size too large": ({"width": 512, "height": 512}, "/width", "at most 256x256"),
    "sampler": ({"sampler": "restart"}, "/sampler", "ddim"),
    "priority": ({"priority": "urgent"}, "/priority", "high"),
    "format": ({"format": "gif"}, "/format", "webp"),
    "metadata": ({"metadata": {"a": 1}}, "/metadata/a", "string"),
    "metadata too large": ({"metadata": {"a": "x" * 3000}}, "/metadata", "2048"),
    "unknown model": ({"model": "sdxl"}, "/model", "plain, toy"),
    "no text": ({"model": "plain"}, "/prompt", "takes no text"),
    "webhook": ({"webhook": "https://example.com"}, "/webhook", "allowed"),
}


@pytest.mark.parametrize("name", SCALARS)
async def test_a_bad_field_is_named_with_its_limit(http: httpx.AsyncClient, redis: Redis, name: str) -> None:
    fields, pointer, detail = SCALARS[name]
    answer = await http.post("/v1/txt2img", json={"prompt": "x", **fields})
    assert_refused(answer, pointer, detail)
    assert redis.zcard("ldm:open") == 0


async def test_every_bad_field_is_listed_at_once(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/txt2img", json={"steps": 0, "n": 99})
    assert {error["pointer"] for error in answer.json()["errors"]} == {"/prompt", "/steps", "/n"}


THINGS = [{"label": "tree", "box": None}, {"label": None, "box": [0, 0, 1, 1]}]
REQUIRED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a prompt": ("txt2img", {"prompt": None}, ["/prompt"]),
    "a picture to repaint": ("inpaint", {"image": None, "mask": None}, ["/image"]),
    "a picture to enlarge": ("superres", {"image": None}, ["/image"]),
    "a map": ("semantic2img", {"map": None}, ["/map"]),
    "a layout": ("layout2img", {"objects": None}, ["/objects"]),
    "what a layout has": ("layout2img", {"objects": THINGS}, ["/objects/0/box", "/objects/1/label"]),
}


@pytest.mark.parametrize("name", REQUIRED)
async def test_a_null_for_a_required_field_is_a_field_left_out(http: httpx.AsyncClient, name: str) -> None:
    task, body, pointers = REQUIRED[name]
    problem = assert_problem(await http.post(f"/v1/{task}", json=body), 422)
    assert problem["errors"] == [{"pointer": pointer, "detail": "is required"} for pointer in pointers]


NO_PICTURE = "must be base64, a data: URL or a file part of multipart/form-data"
NO_LABEL = "must be a label's name or its id, an integer"
BOX = {"box": [0, 0, 1, 1]}
OTHER_TYPES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a number to begin with": ("txt2img", {"prompt": "x", "image": 5}, "/image", NO_PICTURE),
    "an object to repaint": ("inpaint", {"image": {}}, "/image", NO_PICTURE),
    "a list for a mask": ("inpaint", {"image": "", "mask": []}, "/mask", NO_PICTURE),
    "true to enlarge": ("superres", {"image": True}, "/image", NO_PICTURE),
    "a number for a map": ("semantic2img", {"map": 1.5}, "/map", NO_PICTURE),
    "a number for a neighbor": ("txt2img", {"prompt": "x", "neighbors": ["", 5]}, "/neighbors/1", NO_PICTURE),
    "no neighbor": ("txt2img", {"prompt": "x", "neighbors": [None]}, "/neighbors/0", NO_PICTURE),
    "a fraction for a label": ("layout2img", {"objects": [{"label": 1.5, **BOX}]}, "/objects/0/label", NO_LABEL),
    "true for a label": ("layout2img", {"objects": [{"label": True, **BOX}]}, "/objects/0/label", NO_LABEL),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
async def test_a_value_of_none_of_a_fields_types_is_one_sentence(http: httpx.AsyncClient, name: str) -> None:
    task, body, pointer, detail = OTHER_TYPES[name]
    problem = assert_problem(await http.post(f"/v1/{task}", json=body), 422)
    assert problem["errors"] == [{"pointer": pointer, "detail": detail}]
    assert problem["detail"] == f"{pointer[1:]}: {detail}"


async def test_a_label_is_of_the_same_types_in_a_form(http: httpx.AsyncClient) -> None:
    form = {"objects": (None, json.dumps([{"label": True, **BOX}]))}
    assert_refused(await http.post("/v1/layout2img", files=form), "/objects/0/label", NO_LABEL)


async def test_a_model_that_lacks_the_task_says_what_it_does(http: httpx.AsyncClient, encoded: Encoded) -> None:
    answer = await http.post("/v1/superres", json={"image": b64(encoded()), "model": "plain"})
    assert_refused(answer, "/model", "txt2img")


IMAGES: dict[str, tuple[Callable[[Encoded], str | bytes], str]] = {
    "not base64": (lambda e: "§§§", "base64"),
    "an address": (lambda e: "http://example.com/a.png", "base64"),
    "data URL without base64": (lambda e: "data:image/png,abc", "base64"),
    "empty": (lambda e: b"", "not a PNG"),
    "text": (lambda e: b"hello", "not a PNG"),
    "a GIF": (lambda e: e(form="GIF"), "not a PNG"),
    "truncated PNG": (lambda e: e(size=(64, 64))[:60], "truncated"),
    "truncated JPEG": (lambda e: e(size=(64, 64), form="JPEG")[:640], "truncated"),
    "header only": (lambda e: e()[:20], "truncated"),
    "one pixel": (lambda e: e(size=(1, 1)), "at least 4 pixels"),
    "too large": (lambda e: e(size=(65, 64)), "at most 64x64"),
    "a bomb": (lambda e: huge_png(), "has more than 178956970 pixels"),
    "animated PNG": (lambda e: animated("PNG"), "animated"),
    "animated WebP": (lambda e: animated("WEBP"), "animated"),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("way", ["json", "multipart"])
async def test_a_bad_picture_is_refused(
    http: httpx.AsyncClient, redis: Redis, encoded: Encoded, name: str, way: str
) -> None:
    make, detail = IMAGES[name]
    data = make(encoded)
    if way == "json":
        answer = await http.post("/v1/superres", json={"image": b64(data) if isinstance(data, bytes) else data})
    elif isinstance(data, bytes):
        answer = await http.post("/v1/superres", files={"image": ("a.png", data)})
    else:
        answer = await http.post("/v1/superres", data={"image": data}, files={"unused": b""})
        assert answer.status_code == 422
        return
    assert_refused(answer, "/image", detail)
    assert redis.zcard("ldm:open") == 0


@pytest.mark.parametrize(
    ("mask", "detail"),
    [
        ({"size": (32, 16), "color": 255}, "32x16"),
        ({"color": 0}, "nothing to repaint"),
        ({"color": 127}, "nothing to repaint"),
    ],
)
async def test_a_bad_mask_is_refused(
    http: httpx.AsyncClient, encoded: Encoded, mask: dict[str, Any], detail: str
) -> None:
    body = {"prompt": "x", "image": b64(encoded()), "mask": b64(encoded("L", **mask))}
    assert_refused(await http.post("/v1/inpaint", json=body), "/mask", detail)


async def test_inpainting_needs_a_mask_or_transparency(http: httpx.AsyncClient, encoded: Encoded) -> None:
    opaque = {"prompt": "x", "image": b64(encoded())}
    assert_refused(await http.post("/v1/inpaint", json=opaque), "/mask", "transparent")
    clear = {"prompt": "x", "image": b64(encoded("RGBA", color=(9, 9, 9, 0)))}
    assert (await http.post("/v1/inpaint", json=clear)).status_code == 202


@pytest.mark.parametrize(
    ("mode", "form"),
    [("P", "PNG"), ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG"),
     ("L", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP")],
)  # fmt: skip
async def test_unusual_pictures_are_taken(http: httpx.AsyncClient, encoded: Encoded, mode: str, form: str) -> None:
    answer = await http.post("/v1/superres", files={"image": encoded(mode, form=form)})
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["width"] == 128


async def test_bodies_that_cannot_be_read(http: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    cases = [
        (await http.post("/v1/txt2img", content=b"{", headers=json_type), 400),
        (await http.post("/v1/txt2img", content=b"[1]", headers=json_type), 422),
        (await http.post("/v1/txt2img", content=b"\xff\xfe", headers=json_type), 400),
        (await http.post("/v1/txt2img", content=b"a=b", headers={"Content-Type": "text/plain"}), 415),
        (await http.post("/v1/txt2img", content=b"a=b"), 415),
        (await http.post("/v1/txt2img", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400),
        (await http.post("/v1/txt2img", json={"prompt": "x" * 2**20}), 413),
    ]
    for answer, status in cases:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 2**16
            yield b" " * 2**16

    answer = await http.post("/v1/txt2img", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert sent <= 2**20 + 2**17


async def test_a_form_field_given_twice_is_refused(http: httpx.AsyncClient) -> None:
    twice = [("prompt", (None, "a")), ("prompt", (None, "b"))]
    assert_refused(await http.post("/v1/txt2img", files=twice), "/prompt", "twice")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"prompt": "a house",\n "steps": }', "line 2, column 11: Expecting value"),
        (b'{"prompt": "\xff"}', "byte 12 is not UTF-8"),
    ],
)
async def test_a_body_that_is_no_json_says_where(http: httpx.AsyncClient, body: bytes, where: str) -> None:
    refused = await http.post("/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert assert_problem(refused, 400)["detail"] == f"The body is not valid JSON ({where})."
