"""Every family of the paper, from its research checkpoint through import and service to the library's own image."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core.checkpoints import import_checkpoint
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.params import GenerationParams, LayoutObject
from tests.command import ldm
from tests.compvis_layout import Written, inpainting_stable_diffusion, retrieval_augmented
from tests.end_to_end.serving import ROOT, Served, picture, serving

pytestmark = pytest.mark.slow

DATA = ROOT / "tests/golden/data"
THINGS = [{"label": 3, "box": [0.1, 0.2, 0.5, 0.9]}, {"label": 70, "box": [0.0, 0.0, 1.0, 0.25]}]


def label_map() -> bytes:
    data = io.BytesIO()
    levels = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) // 256
    Image.fromarray(levels.astype(np.uint8) + 100).save(data, "PNG")
    return data.getvalue()


# model → task, fields of its own, images
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "v-class": ("class2img", {"class_id": 207, "guidance_scale": 3.0}, {}),
    "v-layout": ("layout2img", {"objects": THINGS}, {}),
    "v-semantic": ("semantic2img", {}, {"map": label_map()}),
    "v-uncond": ("unconditional", {"eta": 1.0}, {}),
    "v-text2img-bert": ("txt2img", {"prompt": "a palm tree", "sampler": "dpmpp_2m"}, {}),
    "v-sd1": ("txt2img", {"prompt": "a horse", "strength": 0.5}, {"image": picture(100, 72)}),
    "v-inpainting": ("inpaint", {"sampler": "plms"}, {"image": picture(96, 96), "mask": picture(96, 96, "L")}),
    "v-superres": ("superres", {"sampler": "ddpm"}, {"image": picture(24, 24)}),
    "sd-inpainting": ("inpaint", {"prompt": "a horse"}, {"image": picture(96, 64), "mask": picture(96, 64, "L")}),
    "retrieval": (
        "txt2img", {"prompt": "a palm tree", "guidance_scale": 5.0},
        {"neighbors": [picture(40, 52), picture(64, 64), picture(32, 32)]},
    ),
}  # fmt: skip
OTHERS = {"sd-inpainting": inpainting_stable_diffusion, "retrieval": retrieval_augmented}
ALSO: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # a text model without channels for a hole
    "v-sd1": ("inpaint", {"prompt": "a horse"}, {"image": picture(128, 128), "mask": picture(128, 128, "L")}),
}
REQUESTS = [*FAMILIES.items(), *ALSO.items()]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("families")
    written = {name: write(tmp_path_factory.mktemp(name)) for name, write in OTHERS.items()}
    for name in FAMILIES.keys() - OTHERS.keys():
        written[name] = Written(DATA / name / "model.ckpt", DATA / name / "model.yaml")
    return [
        import_checkpoint(
            it.ckpt, it.config, folder / name, clip=it.clip, tokenizer=next(iter(it.config.parent.glob("bert-*")), None)
        )
        for name, it in written.items()
    ]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, directories: list[Path]) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "data", directories) as service:
        yield service


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the served worker has it: how a sum is shared among threads shows in its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_base64(data: bytes | list[bytes]) -> Any:
    return [in_base64(each) for each in data] if isinstance(data, list) else base64.b64encode(data).decode()


def opened(data: bytes | list[bytes]) -> Any:
    return [opened(each) for each in data] if isinstance(data, list) else Image.open(io.BytesIO(data))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "asked"), REQUESTS, ids=[f"{name}-{asked[0]}" for name, asked in REQUESTS])
def test_the_served_picture_is_the_librarys(
    families: Served, directories: list[Path], name: str, asked: tuple[str, dict[str, Any], dict[str, Any]]
) -> None:
    task, fields, pictures = asked
    body = {"model": name, "steps": 5, "seed": 3, **fields}
    body |= {key: in_base64(data) for key, data in pictures.items()}
    job = families.finished(families.submit(task, **body)["id"])
    assert job["status"] == "succeeded", job["error"]
    served = Image.open(io.BytesIO(families.image(job["id"])))

    model = load_model(next(path for path in directories if path.name == name))
    own = {key: value for key, value in fields.items() if key not in {"objects", "guidance_scale"}}
    if "objects" in fields:
        own["objects"] = tuple(LayoutObject(thing["label"], *thing["box"]) for thing in fields["objects"])
    params = GenerationParams(
        task=task,  # type: ignore[arg-type]
        width=served.width, height=served.height, steps=5, seed=3,
        guidance_scale=fields.get("guidance_scale", model.card.default_guidance_scale), **own,
    )  # fmt: skip
    inputs = {"image" if key == "map" else key: opened(data) for key, data in pictures.items()}
    (ours,) = generate(model, params, **inputs, rows=model.default_rows())
    assert np.array_equal(np.asarray(served), np.asarray(ours))
    assert len(set(ours.get_flattened_data())) > 100


TYPED = {
    "v-class": ["class2img", "207", "--guidance-scale", "3"],
    "v-layout": ["layout2img", "--object", "3", "0.1", "0.2", "0.5", "0.9", "--object", "70", "0", "0", "1", "0.25"],
    "v-semantic": ["semantic2img", "map.png"],
    "v-uncond": ["unconditional", "--eta", "1"],
    "retrieval": ["txt2img", "a palm tree", "--neighbors", "a.png", "--neighbors", "b.png"],
}


@pytest.mark.parametrize("name", TYPED)
def test_the_command_line_draws_it_with_a_server_and_without_one(
    families: Served, directories: list[Path], tmp_path: Path, name: str
) -> None:
    for file, data in {"map": label_map(), "a": picture(40, 52), "b": picture(64, 64)}.items():
        (tmp_path / f"{file}.png").write_bytes(data)
    words = [*TYPED[name], "--model", name, "--steps", "3", "--seed", "7"]
    served = ldm(*words, "-o", "served.png", cwd=tmp_path, LDM_SERVER=families.url)
    assert served.returncode == 0, served.stderr
    models = [part for path in directories for part in ("--model-dir", str(path))]
    own = ldm(*words, "-o", "own.png", "--local", *models, cwd=tmp_path, LDM_DEVICE="cpu", OMP_NUM_THREADS="1")
    assert own.returncode == 0, own.stderr
    assert (tmp_path / "served.png").read_bytes() == (tmp_path / "own.png").read_bytes()


def test_the_command_line_names_a_label_at_fault_as_it_was_typed(families: Served, tmp_path: Path) -> None:
    refused = ldm("class2img", "1000", "-o", "out.png", cwd=tmp_path, LDM_SERVER=families.url)
    assert (refused.returncode, refused.stderr) == (2, b"ldm: LABEL: must be 0 to 999, got 1000\n")
    words = ("layout2img", "--object", "3", "0.5", "0", "0.1", "1", "-o", "out.png")
    refused = ldm(*words, cwd=tmp_path, LDM_SERVER=families.url)
    assert refused.returncode == 2 and refused.stderr.startswith(b"ldm: --object 1 box: must be [x0, y0, x1, y1]")


def test_the_models_say_what_they_take(families: Served) -> None:
    models = {model["id"]: model for model in families.http.get("/v1/models").json()["data"]}
    assert [name for name in FAMILIES if FAMILIES[name][0] not in models[name]["tasks"]] == []
    assert models["v-class"]["label_count"] == 1000
    assert models["v-semantic"]["label_count"] == 182
    assert models["v-layout"]["max_objects"] == 30
    assert (models["retrieval"]["max_neighbors"], models["retrieval"]["neighbor_size"]) == (20, 32)


SMALL = base64.b64encode(picture(8, 8)).decode()
BAD: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "class out of range": ("class2img", {"class_id": 1000}, "/class_id", "0 to 999"),
    "no class": ("class2img", {}, "/class_id", "either"),
    "class by a name nobody knows": ("class2img", {"class_name": "tench"}, "/class_name", "only ids"),
    "label too high": ("layout2img", {"objects": [{"label": 1023, "box": [0, 0, 1, 1]}]}, "/objects/0/label", "1022"),
    "box inside out": ("layout2img", {"objects": [{"label": 1, "box": [1, 0, 0, 1]}]}, "/objects/0/box", "x0 < x1"),
    "too many things": ("layout2img", {"objects": [{"label": 1, "box": [0, 0, 1, 1]}] * 31}, "/objects", "at most 30"),
    "half a box": ("layout2img", {"objects": [{"label": 1, "box": [0, 0]}]}, "/objects/0/box", "4"),
    "map in colour": ("semantic2img", {"map": base64.b64encode(picture(64, 64)).decode()}, "/map", "palette"),
    "guidance without any": ("unconditional", {"guidance_scale": 2.0}, "/guidance_scale", "must be 1"),
    "text for a model without": ("unconditional", {"prompt": "a cat"}, "/prompt", "no text"),
    "eta for another sampler": ("unconditional", {"sampler": "plms", "eta": 0.5}, "/eta", "ddim"),
    "neighbours for another model": (
        "txt2img", {"prompt": "", "model": "v-sd1", "neighbors": [SMALL]}, "/neighbors", "takes none"
    ),
    "too many neighbours": (
        "txt2img", {"prompt": "", "model": "retrieval", "neighbors": [SMALL] * 21}, "/neighbors", "at most 20"
    ),
    "a neighbour that is no picture": (
        "txt2img", {"prompt": "", "model": "retrieval", "neighbors": [SMALL, "YWJj"]}, "/neighbors/1", "not a PNG"
    ),
    "strength without image": ("txt2img", {"prompt": "", "strength": 0.5}, "/strength", "image"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named(families: Served, bad: str) -> None:
    task, body, pointer, detail = BAD[bad]
    answer = families.http.post(f"/v1/{task}", json=body)
    assert answer.status_code == 422, answer.text
    (error,) = [error for error in answer.json()["errors"] if error["pointer"] == pointer]
    assert detail in error["detail"]
