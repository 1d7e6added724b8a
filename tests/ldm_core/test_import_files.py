"""Files of other people in place of a checkpoint or its yaml: what works, and what is named for what it is."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from ldm_core.checkpoints import import_checkpoint
from ldm_core.errors import ModelError
from ldm_core.weights.checkpoint import open_checkpoint
from service.cli import main

DATA = Path(__file__).resolve().parents[1] / "golden/data"
SD1 = DATA / "v-sd1"
YAML = (SD1 / "model.yaml").read_text()
State = dict[str, Any]

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4265380512\n"
PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head></html>\n"


def sd1_state() -> State:
    with open_checkpoint(SD1 / "model.ckpt") as state:
        return {key: value.clone() for key, value in state.items()}


def written(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = import_checkpoint(SD1 / "model.ckpt", SD1 / "model.yaml", tmp_path_factory.mktemp("sd1") / "out")
    return written(out)


def imported(tmp_path: Path, state: State, *, name: str = "other.ckpt", **given: Any) -> dict[str, bytes]:
    """What is written for a state dict, by torch.save or safetensors."""
    if name.lower().endswith("safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name)
    else:
        torch.save({"state_dict": state}, tmp_path / name)
    return written(import_checkpoint(tmp_path / name, SD1 / "model.yaml", tmp_path / "out", **given))


# --- what works -------------------------------------------------------------------------------------------------


def numpy_1(file: Path) -> None:
    """As numpy 1 names its modules, which published files have."""
    with zipfile.ZipFile(file) as archive:
        items = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in items.items():
            archive.writestr(name, data.replace(b"numpy._core", b"numpy.core") if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("old", [False, True])
def test_numbers_and_containers_beside_the_weights_are_data(
    tmp_path: Path, expected: dict[str, bytes], old: bool
) -> None:
    beside: State = {
        "callbacks": {"ModelCheckpoint": {"best_model_score": np.float64(0.1), "best_model_path": PosixPath("/a/b")}},
        "rng": np.arange(4), "dtype": np.dtype("float32"), "bool": np.bool_(True), "names": np.array(["a", "b"]),
        "defaultdict": defaultdict(list, {"a": [1]}), "ordered": OrderedDict(a=1), "deque": deque([1]),
        "set": {1, 2}, "slice": slice(3), "decimal": Decimal("0.1"),
        "frozen": frozenset("ab"), "complex": 1j, "parameters": torch.nn.ParameterDict({"*": torch.zeros(2)}),
        "size": torch.Size([1, 2]), "torch": torch.float16, "device": torch.device("cpu"),
    }  # fmt: skip
    torch.save({"state_dict": sd1_state(), **beside}, tmp_path / "numbers.ckpt")
    if old:
        numpy_1(tmp_path / "numbers.ckpt")
    out = import_checkpoint(tmp_path / "numbers.ckpt", SD1 / "model.yaml", tmp_path / "out")
    assert written(out) == expected


@pytest.mark.parametrize("name", ["model.ckpt", "MODEL.SAFETENSORS", "model", "model.bin"])
@pytest.mark.parametrize("stored", ["model.safetensors", "model.pt"])
def test_a_file_is_read_by_what_is_in_it(tmp_path: Path, stored: str, name: str) -> None:
    weights = {"a": torch.arange(3.0)}
    for padding in range(0, 400, 24):  # headers of many lengths, some of which begin as pickles do
        if stored.endswith("safetensors"):
            save_file(weights, tmp_path / name, {"x": "y" * padding})
        else:
            torch.save(weights, tmp_path / name)
        with open_checkpoint(tmp_path / name) as state:
            assert torch.equal(state["a"], weights["a"]) and set(state) == {"a"}


def bare_text_model(state: State) -> State:
    return {key.replace("transformer.text_model.", "transformer."): value for key, value in state.items()}


def leftovers(state: State) -> State:
    more = ("cond_stage_model.logit_scale", "cond_stage_model.text_projection",
            "cond_stage_model.transformer.logit_scale", "cond_stage_model.transformer.text_projection.weight",
            "embedding_manager.string_to_param_dict.*", "model_ema.decay", "lvlb_weights", "denoiser.log_sigmas",
            "first_stage_model.loss.logvar")  # fmt: skip
    ids = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    return state | {key: torch.zeros(2) for key in more} | ids


CHANGES: dict[str, Callable[[State], State]] = {
    "no text_model level": bare_text_model,
    "leftovers": leftovers,
    "leftovers without text_model": lambda state: bare_text_model(leftovers(state)),
    "wrapped": lambda state: {f"module.{key}": value for key, value in state.items()},
    "numbers among the weights": lambda state: state | {"epoch": 7, "lr": 0.1, "name": "x"},
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_keys_that_merging_leaves_behind_change_nothing(
    tmp_path: Path, expected: dict[str, bytes], change: str
) -> None:
    assert imported(tmp_path, CHANGES[change](sd1_state())) == expected


@pytest.mark.parametrize(
    ("stored", "read"),
    [(torch.float64, torch.float32), (torch.float8_e4m3fn, torch.float16), (torch.float8_e5m2, torch.float16)],
)
def test_other_floats_are_cast(tmp_path: Path, stored: torch.dtype, read: torch.dtype) -> None:
    def cast(state: State, dtype: torch.dtype) -> State:
        unet = "model.diffusion_model."
        return {key: value.to(dtype) if key.startswith(unet) else value for key, value in state.items()}

    state = cast(sd1_state(), stored)
    (tmp_path / "right").mkdir()
    assert imported(tmp_path, state, name="x.safetensors") == imported(tmp_path / "right", cast(state, read))


# --- what is refused: each of these ends `ldm import` with one line, and leaves nothing ---------------------------


class Trap:
    """Makes a file when it is unpickled by something that runs what is in a pickle."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._made = (call, arguments)

    def __reduce__(self) -> Any:
        return self._made


def as_bytes(data: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(data)


def as_keys(*keys: str, shape: tuple[int, ...] = (2, 2), save: bool = False) -> Callable[[Path], object]:
    state = {key: torch.zeros(shape) for key in keys}
    return lambda file: torch.save(state, file) if save else save_file(state, file)


def as_sd1(change: Callable[[State], Any]) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        state = sd1_state()
        change(state)
        save_file({key: value.contiguous() for key, value in state.items()}, file)

    return write


def safetensors(header: bytes, length: int | None = None) -> Callable[[Path], object]:
    return as_bytes(struct.pack("<Q", len(header) if length is None else length) + header)


def torch_script(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/constants.pkl", b"")


def zipped(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(SD1 / "model.ckpt", "model.ckpt")


def recompressed(file: Path) -> None:
    with zipfile.ZipFile(SD1 / "model.ckpt") as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in source.infolist():
            archive.writestr(item.filename, source.read(item))


def tarred(file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        archive.add(SD1 / "model.yaml", "model.yaml")


def without(prefix: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            del state[key]

    return change


def widened(key: str, dim: int, size: int) -> Callable[[State], Any]:
    def change(state: State) -> None:
        for name in [name for name in state if name.endswith(key)]:
            shape = list(state[name].shape)
            shape[dim] = size
            state[name] = torch.zeros(shape)

    return change


UNET = "model.diffusion_model."
MANY = b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,4]}' % i for i in range(50_001)) + b"}"
SD1_BYTES = (SD1 / "model.ckpt").read_bytes()
CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: None, "is missing"),
    "a directory": (lambda file: file.mkdir(), "is a directory"),
    "empty": (as_bytes(b""), "is empty"),
    "pickle protocol 4": (lambda file: torch.save({}, file, pickle_protocol=4), "a protocol other than"),
    "git-lfs pointer": (as_bytes(POINTER), "is a git-lfs pointer, not the file (git lfs pull"),
    "web page": (as_bytes(PAGE), "is a web page, not the file"),
    "web page with a comment": (as_bytes(b"\n <!-- x --><HTML>"), "is a web page"),
    "text": (as_bytes(b"not weights"), "is text, not a checkpoint"),
    "UTF-8, cut in a character": (as_bytes(b"x" + "é".encode() * 300), "is text, not a checkpoint"),
    "one byte": (as_bytes(b"\x80"), "is no checkpoint"),
    "bytes that are no UTF-8": (as_bytes(b"caf\xe9 \xfe\xff"), "is no checkpoint"),
    "json": (as_bytes(b'{"error": "Access to model is restricted"}'), "is JSON"),
    "gzip": (as_bytes(gzip.compress(b"x" * 100)), "gzip"),
    "tar": (tarred, "is a tar archive"),
    "zip": (zipped, "is a zip archive, not a checkpoint"),
    "compressed": (recompressed, "has been compressed"),
    "TorchScript": (torch_script, "TorchScript"),
    "GGUF": (as_bytes(b"GGUF\x03\0\0\0" + bytes(64)), "is a GGUF file"),
    "ONNX": (as_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\x80" + bytes(64)), "is an ONNX graph"),
    "HDF5": (as_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5"),
    "PNG": (as_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)), "is an image"),
    "noise": (as_bytes(bytes(range(7, 200))), "is no checkpoint"),
    "cut short": (as_bytes(SD1_BYTES[: len(SD1_BYTES) // 2]), "is cut short or damaged"),
    "cut safetensors": (safetensors(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), "cut short"),
    "header cut short": (safetensors(b'{"a":{"dtype":"F32"', 5_000), "is cut short: its header has 5000 bytes"),
    "header of 2^40 bytes": (safetensors(b"{}", 2**40), "has a header of 1099511627776 bytes"),
    "header that is no JSON": (safetensors(b"{" + b"x" * 63), "cannot be read"),
    "too many tensors": (safetensors(MANY), "names 50001 tensors"),
    "no weights": (lambda file: torch.save({"state_dict": {"betas": "none"}}, file), "holds no state dict"),
    "a list": (lambda file: torch.save([torch.zeros(1)], file), "holds no state dict"),
    "other weights": (lambda file: torch.save({"a": torch.zeros(1)}, file), "holds no weights of a latent diffusion"),
    "old pickle cut short": (as_bytes(pickle.dumps({"a": list(range(999))}, 2)[:500]), "cannot be read"),
    "code": (lambda file: torch.save({"callbacks": Trap(Path.touch, file.parent / "sprung")}, file), "holds code"),
    "os.system": (
        lambda file: torch.save({"x": Trap(os.system, f"touch {file.parent / 'sprung'}")}, file),
        "holds code beside its weights (posix.system), which is not run",
    ),
    "eval": (lambda file: torch.save({"x": Trap(eval, "open('sprung', 'w')")}, file), "holds code"),
    "LoRA of kohya": (as_keys("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"), "is a LoRA"),
    "LoRA of diffusers": (as_keys("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), "is a LoRA"),
    "LoHa": (as_keys("lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"), "is a LoRA"),
    "textual inversion": (as_keys("emb_params"), "textual inversion"),
    "textual inversion of SDXL": (as_keys("clip_g", "clip_l"), "textual inversion"),
    "textual inversion of diffusers": (as_keys("<cat-toy>", save=True), "textual inversion"),
    "textual inversion of 2022": (
        lambda file: torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 768)}}, file),
        "textual inversion",
    ),
    "hypernetwork": (
        lambda file: torch.save({320: [{"a": torch.zeros(1)}], "layer_structure": [1, 2, 1], "name": "x"}, file),
        "is a hypernetwork",
    ),
    "ControlNet": (as_keys("control_model.input_hint_block.0.weight", f"{UNET}out.2.weight"), "is a ControlNet"),
    "ControlNet of diffusers": (as_keys("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"), "ControlNet"),
    "SDXL": (as_keys("conditioner.embedders.1.model.ln_final.bias", "conditioner.embedders.0.x"), "Diffusion XL,"),
    "SDXL refiner": (as_keys("conditioner.embedders.0.model.ln_final.bias", f"{UNET}out.2.bias"), "is the refiner"),
    "SD3": (as_keys(f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"), "is Stable Diffusion 3"),
    "Flux": (as_keys("double_blocks.0.img_attn.qkv.weight"), "is Flux"),
    "depth": (as_keys("depth_model.model.x", f"{UNET}input_blocks.0.0.weight", shape=(1, 5, 3, 3)), "is the depth"),
    "unCLIP": (as_keys("noise_augmentor.betas", f"{UNET}label_emb.0.0.weight"), "is Stable unCLIP"),
    "U-Net of diffusers": (as_keys("down_blocks.0.resnets.0.conv1.weight", "mid_block.x"), "component of a diffusers"),
    "TAESD": (as_keys("0.weight", "1.conv.0.weight"), "is TAESD"),
    "TAESD of diffusers": (as_keys("encoder.layers.0.weight", "decoder.layers.3.conv.2.bias"), "is TAESD"),
    "ESRGAN": (lambda file: torch.save({"params_ema": {"conv_first.weight": torch.zeros(1)}}, file), "is an upscaler"),
    "VAE alone": (as_keys("encoder.conv_in.weight", "decoder.conv_in.weight"), "is an autoencoder alone"),
    "text encoder": (as_keys("text_model.encoder.layers.0.mlp.fc1.bias"), "is a text or image encoder alone"),
    "motion": (as_keys("down_blocks.0.motion_modules.0.temporal_transformer.norm.bias"), "moving images"),
    "scale that is none": (as_sd1(lambda state: state.update(scale_factor=torch.zeros(2))), "is no positive number"),
    "no first stage": (
        as_sd1(without("first_stage_model.")), "holds no first stage (no first_stage_model.*); pass --vae DIR or FILE"
    ),
    "half a first stage": (as_sd1(without("first_stage_model.encoder.")), "; pass --vae DIR or FILE"),
    "no text encoder": (as_sd1(without("cond_stage_model.")), "holds no condition encoder (no cond_stage_model.*)"),
    "Stable Diffusion 2": (
        as_sd1(widened("attn2.to_k.weight", 1, 1024)), "attends to 1024 values a token, as Stable Diffusion 2 has"
    ),
    "inpainting": (as_sd1(widened("input_blocks.0.0.weight", 1, 9)), "takes 9 channels, as inpainting has"),
    "upscaler": (as_sd1(widened("input_blocks.0.0.weight", 1, 7)), "takes 7 channels, as the x4 upscaler has"),
    "weights of another": (as_sd1(lambda state: state.update(extra=torch.zeros(1))), "has no place for: extra"),
}  # fmt: skip


def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], ckpt: Path, config: Path, *more: str) -> str:
    """The one line that the command ends with; whatever it wrote is gone."""
    (tmp_path / "models").mkdir()
    out = tmp_path / "models/out"
    before = {*tmp_path.rglob("*")}
    code = main(["import", "--ckpt", str(ckpt), "--config", str(config), "--out", str(out), *more])
    said = capsys.readouterr().err
    assert code == 1
    assert said.startswith("ldm import: ") and said.count("\n") == 1 and len(said) < 1000
    assert "Traceback" not in said
    assert {*tmp_path.rglob("*")} == before
    return said


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.filterwarnings("default")  # of pickle protocols, when a test writes its input
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write, what = CHECKPOINTS[name]
    write(tmp_path / "other.ckpt")
    said = run(tmp_path, capsys, tmp_path / "other.ckpt", SD1 / "model.yaml")
    assert what in said and "other.ckpt" in said
    assert not (tmp_path / "sprung").exists() and not Path("sprung").exists()


def test_numbers_that_torch_does_not_have_are_named(tmp_path: Path) -> None:
    file = tmp_path / "six.safetensors"
    header = b'{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(3))
    with open_checkpoint(file) as state, pytest.raises(ModelError, match=r"six\.safetensors: a cannot be read"):
        state["a"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)  # fmt: skip
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 10)}]}}\n" for i in range(9)
)  # fmt: skip
YAMLS: dict[str, tuple[bytes, str]] = {
    "git-lfs pointer": (POINTER, "is a git-lfs pointer"),
    "web page": (PAGE, "is a web page"),
    "the checkpoint": (SD1_BYTES, "is no text"),
    "latin-1": ("model: é".encode("latin-1"), "is no text in UTF-8"),
    "empty": (b"", "has no model with a target"),
    "a list": (b"- model", "has no model with a target"),
    "a bomb of aliases": (f"{BOMB}model: {{target: *j}}".encode(), "more than 20000 values when its aliases"),
    "a bomb of merges": (f"{MERGES}model: {{target: *j}}".encode(), "more than 20000 values when its aliases"),
    "a bomb of long texts": (f"a: &a {'x' * 50_000}\nmodel: [{'*a, ' * 999}]".encode(), "more than 20000 values"),
    "a circle": (b"model: &a {target: x, params: [*a]}", "nested too deeply"),
    "deep": (b"[" * 5_000, "nested too deeply"),
    "too large": (b"#" * 100_001, "more than 100000 bytes"),
    "a date that is none": (b"model: 2022-99-99", "cannot be read"),
    "tabs": (b"model:\n\ttarget: x", "cannot be read"),
    "a list for params": (b"model: {target: ldm.models.diffusion.ddpm.LatentDiffusion, params: [1]}", "is no mapping"),
    "a map for a target": (b"model: {target: {a: 1}}", "has no model with a target"),
    "an autoencoder's": (b"model: {target: ldm.models.autoencoder.AutoencoderKL}", "is a whole diffusion model"),
}  # fmt: skip


@pytest.mark.parametrize("name", YAMLS)
def test_a_yaml_that_is_none_is_named_for_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data, what = YAMLS[name]
    (tmp_path / "other.yaml").write_bytes(data)
    said = run(tmp_path, capsys, SD1 / "model.ckpt", tmp_path / "other.yaml")
    assert what in said and "other.yaml" in said


@pytest.mark.parametrize("node", ["unet_config", "first_stage_config", "cond_stage_config"])
@pytest.mark.parametrize("value", [[1], 7, {"a": [1]}, {"target": [1]}, {"target": "x", "params": [1]}, None])
def test_a_yaml_with_another_shape_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], node: str, value: Any
) -> None:
    config = yaml.safe_load(YAML)
    config["model"]["params"][node] = value
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    said = run(tmp_path, capsys, SD1 / "model.ckpt", tmp_path / "other.yaml")
    assert "other.yaml" in said and node in said


BAD_CLIPS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"vocab_size": "abc"}, "vocab_size = 'abc' must be a whole number"),
    "endless": ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 must be a whole number from 1 to 256"),
    "wide": ({"hidden_size": 10**12}, "hidden_size = 1000000000000 must be"),
    "heads": ({"num_attention_heads": 7}, "num_attention_heads = 7 does not divide hidden_size = 32"),
    "activation": ({"hidden_act": "nope"}, "hidden_act = 'nope' is no activation"),
    "list": ({"hidden_act": [1]}, "hidden_act = [1] is no activation"),
    "id": ({"eos_token_id": {"a": "b"}}, "is no configuration of CLIPText"),
    "not finite": ({"layer_norm_eps": "x"}, "is no configuration of CLIPText"),
}


def beside(tmp_path: Path, config: dict[str, Any]) -> Path:
    """SD1's yaml, with this configuration of its text encoder beside it."""
    shutil.copytree(SD1 / "clip-tiny", tmp_path / "clip-tiny")
    (tmp_path / "clip-tiny/config.json").write_text(json.dumps(config))
    return Path(shutil.copy(SD1 / "model.yaml", tmp_path / "other.yaml"))


CLIP = json.loads((SD1 / "clip-tiny/config.json").read_text())


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_a_clip_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, what = BAD_CLIPS[name]
    said = run(tmp_path, capsys, SD1 / "model.ckpt", beside(tmp_path, CLIP | change))
    assert "clip-tiny/config.json: " in said and what in said


def test_a_whole_clip_beside_the_yaml_serves_as_its_text_model(tmp_path: Path, expected: dict[str, bytes]) -> None:
    config = beside(tmp_path, {"model_type": "clip", "text_config": CLIP, "vision_config": {}})
    assert written(import_checkpoint(SD1 / "model.ckpt", config, tmp_path / "out")) == expected


# --- a first stage from elsewhere ---------------------------------------------------------------------------------


def first_stage(prefix: str) -> State:
    """SD1's, under the research code's names."""
    own = "first_stage_model."
    return {prefix + key.removeprefix(own): value for key, value in sd1_state().items() if key.startswith(own)}


def imported_alone(folder: Path) -> Path:
    """What an import writes of SD1's first stage and the part of its yaml that describes it."""
    torch.save({"state_dict": first_stage("")}, folder / "alone.ckpt")
    node = yaml.safe_load(YAML)["model"]["params"]["first_stage_config"]
    (folder / "alone.yaml").write_text(yaml.safe_dump({"model": node}))
    return import_checkpoint(folder / "alone.ckpt", folder / "alone.yaml", folder / "alone")


@pytest.mark.parametrize(
    "kind",
    [
        "file",
        "prefixed file",
        "whole checkpoint",
        "directory",
        "model directory",
        "imported alone",
        "file of diffusers",
    ],
)
def test_a_first_stage_from_elsewhere_takes_the_place_of_the_checkpoint_s(
    tmp_path: Path, expected: dict[str, bytes], kind: str
) -> None:
    vae = tmp_path / "vae.safetensors"
    directory = import_checkpoint(SD1 / "model.ckpt", SD1 / "model.yaml", tmp_path / "whole") / "vae"
    if kind == "directory":
        vae = directory
    elif kind == "model directory":
        vae = directory.parent
    elif kind == "imported alone":
        vae = imported_alone(tmp_path)
    elif kind == "file of diffusers":
        vae = directory / "diffusion_pytorch_model.safetensors"
    elif kind == "whole checkpoint":
        vae = SD1 / "model.ckpt"
    else:
        save_file(first_stage("first_stage_model." if kind == "prefixed file" else "") | {"loss.logvar": torch.zeros(1)}
                  if kind == "file" else first_stage("first_stage_model."), vae)  # fmt: skip
    state = sd1_state()
    without("first_stage_model.")(state)
    assert imported(tmp_path, state, vae=vae) == expected
    (tmp_path / "both").mkdir()
    zeros = {key: torch.zeros_like(v) if "first_stage" in key else v for key, v in sd1_state().items()}
    assert imported(tmp_path / "both", zeros, vae=vae) == expected


def changed_vae(tmp_path: Path, **change: Any) -> Path:
    vae = import_checkpoint(SD1 / "model.ckpt", SD1 / "model.yaml", tmp_path / "whole") / "vae"
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(config | change))
    return vae


VAES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "gone", "is missing"),
    "no component": (lambda folder: SD1, "config.json: is missing"),
    "latents of another scale": (lambda folder: changed_vae(folder, scaling_factor=0.13025), "factor = 0.13025"),
    "another architecture": (lambda folder: changed_vae(folder, layers_per_block=3), "layers_per_block = 3"),
    "TAESD": (lambda folder: changed_vae(folder, _class_name="AutoencoderTiny"), "is of class 'AutoencoderTiny'"),
    "a pointer": (lambda folder: written_to(folder / "vae.pt", POINTER), "is a git-lfs pointer"),
    "a LoRA": (lambda folder: saved_to(folder / "vae.pt", "lora_unet_x.lora_up.weight"), "is a LoRA"),
    "half of one": (lambda folder: saved_to(folder / "vae.pt", "encoder.conv_in.weight"), "lacks what model.yaml asks"),
}  # fmt: skip


def written_to(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


def saved_to(file: Path, *keys: str) -> Path:
    as_keys(*keys)(file)
    return file


@pytest.mark.parametrize("name", VAES)
def test_a_first_stage_that_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, what = VAES[name]
    assert what in run(tmp_path, capsys, SD1 / "model.ckpt", SD1 / "model.yaml", "--vae", str(make(tmp_path)))


USELESS = {
    "v-kl-f8": ["--vae x", "--tokenizer x", "--clip x", "--labels x", "--size 64", "--ema"],
    "v-uncond": ["--tokenizer x", "--clip x", "--labels x"],
    "v-class": ["--tokenizer x", "--clip x"],
    "v-layout": ["--tokenizer x"],
    "v-superres": ["--tokenizer x", "--labels x"],
    "v-sd1": ["--clip x", "--labels x"],
}


@pytest.mark.parametrize(("case", "given"), [(case, given) for case, options in USELESS.items() for given in options])
def test_an_option_that_the_model_has_no_use_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, given: str
) -> None:
    said = run(tmp_path, capsys, DATA / case / "model.ckpt", DATA / case / "model.yaml", *given.split())
    assert "model.yaml: " in said and f"; leave {given.split()[0]} out" in said
