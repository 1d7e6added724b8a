"""The unmodified `webuiapi` client, and the plain posts of web interfaces, against a running service."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import webuiapi
from PIL import Image, ImageChops

from service.intake.web_ui_names import LABELS
from tests.end_to_end.serving import Served, base64_picture, eventually, picture

pytestmark = pytest.mark.slow

ALICE, BOB = "ldm_alice-0123456789", "ldm_bob-0123456789"
PROMPT = "a red house by the sea"
SIZE = {"width": 64, "height": 64}


def client(service: Served, **given: Any) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=service.port, sampler="Euler a", steps=3, **given)


@pytest.fixture
def api(served: Served) -> webuiapi.WebUIApi:
    return client(served)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def decoded(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def codes(result: Any) -> dict[str, str]:
    """The warnings by the fields that they are about."""
    return {warning["pointer"]: warning["code"] for warning in result.info["warnings"]}


def test_text_to_image_is_the_image_of_our_own_api(served: Served, api: webuiapi.WebUIApi) -> None:
    made = api.txt2img(prompt=PROMPT, negative_prompt="a boat", seed=7, cfg_scale=3, n_iter=2, **SIZE)
    assert len(made.images) == 2
    assert (made.info["seed"], made.info["all_seeds"]) == (7, [7, 8])
    assert made.info["all_prompts"] == [PROMPT] * 2
    assert made.info["sampler_name"] == "Euler a"
    assert made.parameters["prompt"] == PROMPT
    job = served.submit(
        "txt2img", prompt=PROMPT, negative_prompt="a boat", seed=7, n=2, steps=3, sampler="euler_a", guidance_scale=3
    )
    served.finished(job["id"])
    for i, image in enumerate(made.images):
        assert ImageChops.difference(image.convert("RGB"), opened(served.image(job["id"], i))).getbbox() is None
    assert made.images[1].info["parameters"] == made.info["infotexts"][1]
    assert made.info["infotexts"][1] == (
        f"{PROMPT}\nNegative prompt: a boat\nSteps: 3, Sampler: Euler a, CFG scale: 3, Seed: 8, Size: 64x64, "
        "Model: scenes, Version: ldm-service"
    )


def test_png_info_reads_what_both_apis_write(served: Served, api: webuiapi.WebUIApi) -> None:
    made = api.txt2img(prompt=PROMPT, seed=7, **SIZE)
    told = api.png_info(made.image)
    assert told.info == made.info["infotexts"][0]
    assert told.parameters["Prompt"] == PROMPT
    assert {"Seed": "7", "Steps": "3", "Size-1": "64", "Model": "scenes"}.items() <= told.parameters.items()
    job = served.submit("txt2img", prompt=PROMPT, seed=9, steps=3)
    served.finished(job["id"])
    ours = api.png_info(Image.open(io.BytesIO(served.image(job["id"]))))
    assert {"Prompt": PROMPT, "Seed": "9", "Sampler": "DDIM"}.items() <= ours.parameters.items()
    assert json.loads(ours.json["items"]["parameters"])["seed"] == 9
    plain = api.png_info(opened(picture(8, 8)))
    assert (plain.info, plain.parameters) == ("", {})


def test_a_seed_of_minus_one_is_another_each_time(api: webuiapi.WebUIApi) -> None:
    assert len({api.txt2img(prompt=PROMPT, **SIZE).info["seed"] for _ in range(2)}) == 2


def test_image_to_image_goes_as_far_as_it_is_told_and_takes_the_size(api: webuiapi.WebUIApi) -> None:
    image = opened(picture(64, 64))
    near, far = (
        api.img2img([image], prompt=PROMPT, seed=1, denoising_strength=strength, **SIZE).image.convert("RGB")
        for strength in (0.1, 1.0)
    )

    def distance(other: Image.Image) -> int:
        return sum(i * n for i, n in enumerate(ImageChops.difference(image, other).convert("L").histogram()))

    assert distance(near) < distance(far)
    for mode in (0, 1, 2):
        scaled = api.img2img([opened(picture(48, 96))], prompt=PROMPT, resize_mode=mode, **SIZE)
        assert scaled.image.size == (64, 64)
        assert scaled.info["infotexts"][0].count("Denoising strength: 0.75") == 1
    with pytest.raises(RuntimeError, match="resize_mode"):
        api.img2img([image], prompt=PROMPT, resize_mode=3, **SIZE)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("invert", [0, 1])
def test_what_the_mask_keeps_stays_as_it_is(api: webuiapi.WebUIApi, whole: bool, invert: int) -> None:
    image, mask = opened(picture(64, 64)), Image.open(io.BytesIO(picture(64, 64, "L")))
    made = api.img2img(
        [image], mask_image=mask, mask_blur=0, inpainting_mask_invert=invert, inpaint_full_res=not whole,
        inpaint_full_res_padding=4, prompt=PROMPT, seed=3, **SIZE,
    )  # fmt: skip
    changed = (
        ImageChops.difference(made.image.convert("RGB"), image).convert("L").point(lambda level: 255 * (level > 0))
    )
    kept = mask if invert else ImageChops.invert(mask)
    assert changed.getbbox() is not None
    assert ImageChops.multiply(changed, kept).getbbox() is None
    assert codes(made)["/denoising_strength"] == codes(made)["/inpainting_fill"] == "field_ignored"


def test_a_mask_with_soft_borders_blends_and_keeps_what_is_far(api: webuiapi.WebUIApi) -> None:
    image, mask = opened(picture(64, 64)), Image.open(io.BytesIO(picture(64, 64, "L")))
    given = {"mask_image": mask, "inpaint_full_res": False, "prompt": PROMPT, "seed": 3, **SIZE}
    made = api.img2img([image], mask_blur=2, **given)
    changed = ImageChops.difference(made.image.convert("RGB"), image).getbbox()
    assert changed is not None
    assert 0 < changed[0] < 16 and 48 < changed[2] < 64  # beyond the hard mask, and not everywhere
    assert "Mask blur: 2" in made.info["infotexts"][0]


def test_only_masked_is_pasted_into_an_image_of_any_size(api: webuiapi.WebUIApi) -> None:
    image, mask = opened(picture(160, 96)), Image.open(io.BytesIO(picture(160, 96, "L")))
    made = api.img2img([image], mask_image=mask, inpaint_full_res=True, prompt=PROMPT, **SIZE)
    assert made.image.size == (160, 96)
    assert made.image.getpixel((0, 0)) == image.getpixel((0, 0))
    with pytest.raises(RuntimeError, match="they must be equal"):
        api.img2img([image], mask_image=mask.resize((64, 64)), prompt=PROMPT, **SIZE)


def test_enlarging_gives_the_size_that_is_asked_for(api: webuiapi.WebUIApi) -> None:
    small = opened(picture(16, 24))
    one = api.extra_single_image(small, upscaler_1="scenes-superres", upscaling_resize=3)
    assert (one.image.size, one.info) == ((48, 72), "")
    several = api.extra_batch_images([small, small], resize_mode=1, upscaling_resize_w=40, upscaling_resize_h=40)
    assert [image.size for image in several.images] == [(40, 40)] * 2
    assert "scenes-superres" in several.info
    uncropped = api.extra_single_image(
        small, resize_mode=1, upscaling_resize_w=40, upscaling_resize_h=48, upscaling_crop=False, gfpgan_visibility=1
    )
    assert uncropped.image.size == (32, 48)
    assert "face restorer" in uncropped.info
    for given in ({"upscaling_resize": 5}, {"resize_mode": 1, "upscaling_resize_w": 80, "upscaling_resize_h": 48}):
        with pytest.raises(RuntimeError, match="5 times; at most 4"):
            api.extra_single_image(small, **given)


def test_progress_shows_the_running_job_and_interrupt_ends_it(served: Served, api: webuiapi.WebUIApi) -> None:
    assert api.get_progress()["state"]["job_count"] == 0
    own = served.submit("txt2img", prompt=PROMPT, steps=1000, n=4)
    failures: list[RuntimeError] = []

    def draw() -> None:
        try:
            client(served).txt2img(prompt=PROMPT, steps=1000, batch_size=4, **SIZE)
        except RuntimeError as failure:
            failures.append(failure)

    drawing = threading.Thread(target=draw)
    drawing.start()
    shown = eventually(lambda: now if (now := api.get_progress())["current_image"] and now["progress"] else None)
    assert shown is not None
    assert 0 < shown["progress"] < 1
    assert shown["state"]["sampling_steps"] == 1000
    assert shown["eta_relative"] > 0
    assert max(decoded(shown["current_image"]).size) == 64
    assert api.interrupt() == {}
    drawing.join(30)
    assert failures[0].args[0] == 409
    assert "cancelled" in failures[0].args[1]
    assert api.get_progress()["progress"] == 0
    assert api.skip() is None  # a job that came by our own API is none of this one's
    assert served.job(own["id"])["status"] in {"queued", "running"}
    served.http.delete(own["urls"]["self"])


def test_names_of_samplers(api: webuiapi.WebUIApi) -> None:
    names = api.util_get_sampler_names()
    assert names == sorted(LABELS) and {"DDIM", "DPM++ 2M", "DPM++ 2M SDE", "Euler a"} <= set(names)
    assert api.util_get_scheduler_names() == ["automatic", "exponential", "karras", "sgm_uniform"]
    for name in names:
        made = api.txt2img(prompt=PROMPT, sampler_name=name, **SIZE)
        assert made.info["sampler_name"] == name
        assert "schedule_ignored" not in codes(made).values()
    karras = api.txt2img(prompt=PROMPT, sampler_name="DPM++ 2M Karras", **SIZE)
    assert karras.info["sampler_name"] == "DPM++ 2M"
    assert "/sampler_name" not in codes(karras)
    plain = api.txt2img(prompt=PROMPT, sampler_name="DPM++ 2M", seed=karras.info["seed"], **SIZE)
    assert plain.image.tobytes() != karras.image.tobytes()
    named = api.txt2img(prompt=PROMPT, sampler_name="DPM++ 2M", scheduler="Karras", seed=karras.info["seed"], **SIZE)
    assert named.image.tobytes() == karras.image.tobytes()
    ddim = api.txt2img(prompt=PROMPT, sampler_name="DDIM", scheduler="Karras", **SIZE)
    assert codes(ddim)["/scheduler"] == "schedule_ignored"
    with pytest.raises(RuntimeError, match=r"Restart.*is not known here; there are DDIM, DDPM"):
        api.txt2img(prompt=PROMPT, sampler_name="Restart", **SIZE)


def test_models_and_options(served: Served, api: webuiapi.WebUIApi) -> None:
    assert api.util_get_model_names() == ["scenes"]
    assert api.util_get_current_model() == "scenes"
    assert [each["name"] for each in api.get_upscalers()] == ["scenes-superres"]
    assert (api.get_loras(), api.get_scripts()) == ([], {"txt2img": [], "img2img": []})
    assert api.refresh_checkpoints() is None
    api.util_set_model("scenes")
    assert api.util_get_current_model() == "scenes"
    refused = api.set_options({"sd_model_checkpoint": "v1-5.safetensors"})
    assert "there are scenes" in refused["detail"]
    assert api.set_options({"samples_format": "png", "show_progress_every_n_steps": 3}) is None
    assert "CLIP_stop" in api.set_options({"CLIP_stop_at_last_layers": 2})["warnings"][0]["detail"]
    allowed = served.http.put("/sdapi/v1/options").headers["allow"]
    assert allowed == "GET, HEAD, OPTIONS, POST"
    assert served.http.get("/sdapi/v1/txt2img").headers["allow"] == "OPTIONS, POST"


def test_what_is_not_followed_is_named_and_what_cannot_be_is_refused(api: webuiapi.WebUIApi) -> None:
    made = api.txt2img(
        prompt=PROMPT, restore_faces=True, tiling=True, styles=["x"], subseed_strength=0.3, enable_hr=True,
        override_settings={"CLIP_stop_at_last_layers": 2, "save_images": True}, **SIZE,
    )  # fmt: skip
    fields = {"enable_hr", "restore_faces", "tiling", "styles", "subseed_strength"}
    assert codes(made).keys() == {f"/{name}" for name in fields} | {"/override_settings/CLIP_stop_at_last_layers"}
    for field, given in {
        "n_iter": {"n_iter": 3, "batch_size": 3}, "cfg_scale": {"cfg_scale": 99}, "width": {"width": 65, "height": 64},
        "seed": {"seed": -2}, "steps": {"steps": 0}, "override_settings/sd_model_checkpoint": {
            "override_settings": {"sd_model_checkpoint": "other"}},
    }.items():  # fmt: skip
        with pytest.raises(RuntimeError) as refused:
            api.txt2img(prompt=PROMPT, **{**SIZE, **given})
        status, text = refused.value.args
        assert (status, json.loads(text)["errors"][0]["pointer"]) == (422, f"/{field}")


def test_the_posts_of_open_webui(served: Served) -> None:
    """It reads the options, sets the model, and posts what its settings name."""
    http = served.http
    assert http.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "scenes"
    assert [(each["title"], each["model_name"]) for each in http.get("/sdapi/v1/sd-models").json()] == [
        ("scenes", "scenes")
    ]
    assert http.post("/sdapi/v1/options", json={"sd_model_checkpoint": "scenes"}).status_code == 200
    body = {"prompt": PROMPT, "batch_size": 2, "width": 64, "height": 64, "steps": 3, "negative_prompt": None}
    answer = http.post("/sdapi/v1/txt2img", json={**body, "cfg_scale": 3.0, "sampler_name": "DPM++ 2M"}).json()
    assert [decoded(image).size for image in answer["images"]] == [(64, 64)] * 2
    assert json.loads(answer["info"])["steps"] == 3


def test_the_posts_of_an_editors_plug_in(served: Served) -> None:
    """Krita's plug-ins send a selection with everything that the web interface has, much of it null."""
    body = {
        "init_images": [f"data:image/png;base64,{base64_picture(64, 64)}"], "mask": base64_picture(64, 64, "L"),
        "mask_blur": 0, "inpainting_fill": 2, "inpaint_full_res": False, "inpaint_full_res_padding": 0,
        "inpainting_mask_invert": 0, "denoising_strength": 1.0, "resize_mode": 1, "prompt": PROMPT,
        "negative_prompt": "", "sampler_name": "DDIM", "sampler_index": None, "scheduler": None, "seed": "11",
        "steps": 3, "cfg_scale": 3, "width": 64, "height": 64, "batch_size": 1, "n_iter": 1, "styles": None,
        "override_settings": {}, "override_settings_restore_afterwards": False, "script_name": None,
        "script_args": [], "alwayson_scripts": {}, "include_init_images": False, "do_not_save_grid": True,
        "save_images": False, "s_tmax": None, "some_new_field": {"a": [1]},
    }  # fmt: skip
    answer = served.http.post("/sdapi/v1/img2img", json=body).json()
    info = json.loads(answer["info"])
    assert (info["seed"], info["warnings"]) == (11, [])
    assert answer["parameters"]["init_images"] is None
    assert decoded(answer["images"][0]).getpixel((0, 0)) == opened(picture(64, 64)).getpixel((0, 0))
    unsent = served.http.post("/sdapi/v1/txt2img", json={"prompt": PROMPT, "steps": 3, "send_images": False})
    assert unsent.json()["images"] == []


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("img2img", {"prompt": "x"}, "init_images: is required"),
        ("img2img", {"init_images": ["no base64!"]}, "init_images/0: must be base64"),
        ("img2img", {"init_images": [base64_picture(8, 8)] * 2}, "at most 1 item"),
        ("img2img", {"init_images": [base64_picture(8, 8)], "width": 60000, "height": 60000}, "pixels"),
        ("img2img", {"init_images": [base64_picture(64, 64)], "mask": base64_picture(64, 64),
                     "inpainting_mask_invert": 1, "mask_blur": "x"}, "mask_blur"),
        ("extra-single-image", {}, "image: must be base64"),
        ("extra-batch-images", {"imageList": [{"data": None}]}, "imageList/0/data: must be base64"),
        ("extra-batch-images", {"imageList": [{"data": base64_picture(8, 8)}] * 9}, "imageList: must be 1 to 8"),
        ("png-info", {"image": 3}, "image: must be base64"),
        ("png-info", {"image": "AAAA"}, "is not a PNG"),
        ("txt2img", [], "must be a JSON object"),
    ],
)  # fmt: skip
def test_bad_input_is_a_422_that_says_what(served: Served, path: str, body: Any, part: str) -> None:
    refused = served.http.post(f"/sdapi/v1/{path}", json=body)
    assert refused.status_code == 422, refused.text
    assert part in refused.json()["detail"]


def test_a_password_is_an_api_key_and_jobs_are_their_keys_own(serve: Callable[..., Served]) -> None:
    service = serve(api_keys=f"alice:{ALICE},bob:{BOB}")
    eventually(lambda: _answers(service))
    alice, bob = (client(service, username="x", password=key) for key in (ALICE, BOB))
    eventually(lambda: alice.get_sd_models())
    assert alice.txt2img(prompt=PROMPT, **SIZE).image.size == (64, 64)
    with pytest.raises(RuntimeError) as refused:
        client(service, username="x", password="wrong-key-0123456789").txt2img(prompt=PROMPT)
    assert refused.value.args[0] == 401
    assert json.loads(refused.value.args[1])["detail"] == "this API key is unknown."
    assert service.http.get("/sdapi/v1/samplers").status_code == 401
    assert service.http.get("/v1/models", auth=("x", ALICE)).status_code == 401  # on these routes alone
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert service.http.post("/sdapi/v1/interrupt", auth=("x", ALICE), headers=foreign).status_code == 401
    done: list[Any] = []
    drawing = threading.Thread(target=lambda: done.append(alice.txt2img(prompt=PROMPT, steps=300, **SIZE)))
    drawing.start()
    other = client(service, username="x", password=ALICE)
    eventually(lambda: other.get_progress()["state"]["job_count"])
    assert bob.get_progress()["state"]["job_count"] == 0
    bob.interrupt()
    drawing.join(60)
    assert done[0].info["steps"] == 300


def _answers(service: Served) -> bool:
    try:
        return service.http.get("/readyz").status_code == 200
    except httpx.TransportError:
        time.sleep(0.05)
        return False
