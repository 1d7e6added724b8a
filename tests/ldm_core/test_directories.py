"""Model directories as people bring them: what loads, and what is refused in one sentence that says what it is."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_core.card import ModelCard
from ldm_core.errors import ModelError
from ldm_core.loading.model import check_model, load_model
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import read_card
from tests.published import write_stable_diffusion

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("published") / "sd")


@pytest.fixture
def directory(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "sd"))


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def assert_same_networks(a: LatentDiffusion, b: LatentDiffusion) -> None:
    for name in ("unet", "autoencoder", "condition"):
        theirs = getattr(b, name).state_dict()
        for key, value in getattr(a, name).state_dict().items():
            assert torch.equal(value, theirs[key]), (name, key)


def test_shards_of_every_component_load(published: Path, tmp_path: Path) -> None:
    directory = write_stable_diffusion(tmp_path / "sharded", max_shard_size="50KB")
    for part in ("unet", "vae", "text_encoder"):
        (index,) = (directory / part).glob("*.safetensors.index.json")
        assert len(set(json.loads(index.read_text())["weight_map"].values())) > 1
    assert_same_networks(load_model(published), load_model(directory))
    assert check_model(directory) == read_card(directory)


def as_pickles(directory: Path) -> None:
    """Every component's weights as the libraries wrote them before safetensors."""
    for part, name in {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
                       "text_encoder": "pytorch_model"}.items():  # fmt: skip
        (file,) = (directory / part).glob("*.safetensors")
        torch.save(load_file(file), file.with_name(f"{name}.bin"))
        file.unlink()


def test_a_directory_of_pickles_loads(published: Path, directory: Path) -> None:
    as_pickles(directory)
    check_model(directory)
    assert_same_networks(load_model(published), load_model(directory))


def test_shards_that_are_pickles_load(published: Path, directory: Path) -> None:
    state = load_file(directory / UNET)
    (directory / UNET).unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    halves = [dict(list(state.items())[i::2]) for i in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        torch.save(half, directory / "unet" / name)
    index = {"metadata": {}, "weight_map": {key: names[i] for i in (0, 1) for key in halves[i]}}
    (directory / "unet/diffusion_pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same_networks(load_model(published), load_model(directory))


class Code:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("from tests.ldm_core.test_directories import Code; Code.ran = True",)


@pytest.mark.parametrize("look", [load_model, check_model])
def test_code_in_a_pickle_is_refused_and_never_runs(directory: Path, look: Callable[[Path], object]) -> None:
    as_pickles(directory)
    file = directory / "unet/diffusion_pytorch_model.bin"
    torch.save({**torch.load(file, weights_only=True), "evil": Code()}, file)
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.bin: .*code"):
        look(directory)
    assert not Code.ran


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_a_variant_is_taken_where_there_is_nothing_else(published: Path, directory: Path, variant: str) -> None:
    for file in directory.glob("*/*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    assert_same_networks(load_model(published), load_model(directory))


def test_plain_weights_come_before_variants_and_pickles(published: Path, directory: Path) -> None:
    state = {key: value + 1 for key, value in load_file(directory / UNET).items()}
    save_file(state, directory / "unet/diffusion_pytorch_model.fp16.safetensors")
    torch.save(state, directory / "unet/diffusion_pytorch_model.bin")
    assert_same_networks(load_model(published), load_model(directory))


def test_shards_of_a_variant_load(published: Path, tmp_path: Path) -> None:
    directory = write_stable_diffusion(tmp_path / "sharded", max_shard_size="50KB", variant="fp16")
    assert not (directory / "unet/diffusion_pytorch_model.safetensors.index.json").exists()
    assert_same_networks(load_model(published), load_model(directory))


def write_index(directory: Path, data: Any) -> None:
    (directory / UNET).rename(directory / "unet/part.safetensors")
    (directory / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(data))


def write_header(file: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}


WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda d: (d / UNET).unlink(), "unet: has no .safetensors file and no .bin file"),
    "another library's": (
        lambda d: (d / UNET).rename(d / "unet/diffusion_flax_model.msgpack"), "there is diffusion_flax_model.msgpack"
    ),
    "a shard is missing": (
        lambda d: write_index(d, {"weight_map": {"a": "part.safetensors", "b": "part2.safetensors"}}),
        "part2.safetensors of its 2 files is missing",
    ),
    "a shard outside": (
        lambda d: write_index(d, {"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}),
        "names '../vae/diffusion_pytorch_model.safetensors', which is no file beside it",
    ),
    "an index of nothing": (lambda d: write_index(d, {"metadata": {}}), "has no weight_map"),
    "an index of numbers": (lambda d: write_index(d, {"weight_map": {"a": 3}}), "names 3, which is no file"),
    "an index that is a list": (lambda d: write_index(d, []), "is not a JSON object"),
    "a git-lfs pointer": (
        lambda d: (d / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        "is not the weights but a git-lfs pointer",
    ),
    "a web page": (lambda d: (d / UNET).write_text("<!doctype html>"), "is not the weights but a web page"),
    "empty": (lambda d: (d / UNET).write_bytes(b""), "in a file of 0"),
    "a header longer than the file": (
        lambda d: write_header(d / UNET, {}, length=2**62), "a header of 4611686018427387904 bytes in a file of"
    ),
    "a header as long as that of a million tensors": (
        lambda d: write_header(d / UNET, " " * 2**26), "at most 16777216 are read"
    ),
    "many tensors": (
        lambda d: write_header(d / UNET, {f"{i}": tensor(0, 0) for i in range(100_001)}), "at most 100000 are read"
    ),
    "a header that is a list": (lambda d: write_header(d / UNET, []), "its header is no JSON object"),
    "a header that is no JSON": (lambda d: (d / UNET).write_bytes(struct.pack("<Q", 4) + b"{{{{"), "is no JSON"),
    "tensors that overlap": (
        lambda d: write_header(d / UNET, {"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "do not fill it"
    ),
    "tensors behind the end": (lambda d: write_header(d / UNET, {"a": tensor(0, 8)}, bytes(4)), "do not fill it"),
    "a shape of more than there is": (
        lambda d: write_header(d / UNET, {"a": {**tensor(0, 4), "shape": [2**62]}}, bytes(4)), "do not fill it"
    ),
    "offsets that are no numbers": (
        lambda d: write_header(d / UNET, {"a": {**tensor(0, 4), "data_offsets": "abc"}}, bytes(4)), "do not fill it"
    ),
    "a type that is not read": (
        lambda d: write_header(d / UNET, {"a": {**tensor(0, 4), "dtype": "F8_E4M3"}}, bytes(4)), "of type F8_E4M3"
    ),
}  # fmt: skip


@pytest.mark.parametrize("look", [load_model, check_model])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_cannot_be_read_are_named(directory: Path, name: str, look: Callable[[Path], object]) -> None:
    damage, said = WEIGHTS[name]
    damage(directory)
    with pytest.raises(ModelError) as raised:
        look(directory)
    assert said in str(raised.value)
    assert str(directory / "unet") in str(raised.value)
    assert len(str(raised.value)) < 500


def test_weights_of_integers_are_refused(directory: Path) -> None:
    state = load_file(directory / UNET)
    save_file({**state, "conv_in.weight": state["conv_in.weight"].to(torch.int8)}, directory / UNET)
    with pytest.raises(ModelError, match=r"no weights: conv_in\.weight"):
        load_model(directory)


def pipeline(name: str) -> Callable[[Path], None]:
    return lambda d: change_json(d / "model_index.json", _class_name=name)


def component(name: str, kind: str, library: str = "diffusers") -> Callable[[Path], None]:
    return lambda d: change_json(d / "model_index.json", **{name: [library, kind]})


def config(part: str, **changes: Any) -> Callable[[Path], None]:
    return lambda d: change_json(d / part / "config.json", **changes)


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "SDXL": (pipeline("StableDiffusionXLPipeline"), "is SDXL (StableDiffusionXLPipeline)"),
    "SD 3": (pipeline("StableDiffusion3Pipeline"), "is Stable Diffusion 3"),
    "FLUX": (pipeline("FluxPipeline"), "is FLUX"),
    "PixArt": (pipeline("PixArtSigmaPipeline"), "is PixArt"),
    "depth": (pipeline("StableDiffusionDepth2ImgPipeline"), "with depth as input"),
    "unCLIP": (pipeline("StableUnCLIPImg2ImgPipeline"), "unCLIP"),
    "ControlNet": (pipeline("StableDiffusionControlNetPipeline"), "with a ControlNet"),
    "Stable Cascade": (pipeline("StableCascadeDecoderPipeline"), "is Stable Cascade"),
    "Kandinsky": (pipeline("KandinskyV22Pipeline"), "is Kandinsky"),
    "AnimateDiff": (pipeline("AnimateDiffPipeline"), "AnimateDiff"),
    "LCM": (pipeline("LatentConsistencyModelPipeline"), "latent consistency model"),
    "pixels": (pipeline("DDPMPipeline"), "diffusion on pixels"),
    "unknown pipeline": (pipeline("MagicPipeline"), "is for MagicPipeline, which is not known here"),
    "no pipeline": (pipeline(None), "names no pipeline"),  # type: ignore[arg-type]
    "a second text encoder": (component("text_encoder_2", "CLIPTextModelWithProjection", "transformers"), "it is SDXL"),
    "a transformer": (component("transformer", "FluxTransformer2DModel"), "diffusion transformer"),
    "a component nobody knows": (component("wand", "Magic"), "component 'wand' (Magic)"),
    "TAESD": (config("vae", _class_name="AutoencoderTiny"), "AutoencoderTiny is TAESD"),
    "another autoencoder": (config("vae", _class_name="MagicAutoencoder"), "MagicAutoencoder is not known here"),
    "another U-Net": (config("unet", _class_name="UNetMotionModel"), "U-Net of AnimateDiff"),
    "another text encoder": (config("text_encoder", architectures=["T5EncoderModel"]), "encoder of Stable Diffusion 3"),
    "the U-Net of SDXL": (config("unet", addition_embed_type="text_time"), "is the U-Net of SDXL"),
    "the U-Net of an LCM": (config("unet", time_cond_proj_dim=256), "latent consistency model"),
    "the U-Net of unCLIP": (config("unet", class_embed_type="projection"), "U-Net of unCLIP"),
    "the U-Net of depth": (config("unet", in_channels=5), "depth as input"),
    "the U-Net of InstructPix2Pix": (config("unet", in_channels=8), "InstructPix2Pix"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_other_families_are_called_by_their_names(directory: Path, name: str) -> None:
    damage, said = FOREIGN[name]
    damage(directory)
    with pytest.raises(ModelError) as raised:
        read_card(directory)
    assert said in str(raised.value)
    assert str(directory) in str(raised.value)


def test_what_is_not_run_is_said(directory: Path) -> None:
    assert read_card(directory).warnings == ()
    change_json(
        directory / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"], trick=3, requires_safety_checker=True,
    )  # fmt: skip
    first, second = read_card(directory).warnings
    assert (first.code, first.detail) == ("safety_checker_ignored", "the directory's safety_checker is not run")
    assert "trick = 3" in second.detail
    assert load_model(directory).card.warnings == (first, second)


def only(path: Path, name: str, text: str = "{}") -> Path:
    """A directory with that one file in it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(text)
    return path


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a LoRA": (lambda t: only(t, "pytorch_lora_weights.safetensors"), "is missing; the directory holds a LoRA"),
    "peft's LoRA": (lambda t: only(t, "adapter_config.json"), "holds a LoRA"),
    "a LoRA's file": (lambda t: only(t, "my.lora.safetensors") / "my.lora.safetensors", "is a single file"),
    "a checkpoint": (lambda t: only(t, "v1-5.ckpt"), "ldm import --ckpt"),
    "a checkpoint's file": (lambda t: only(t, "v1-5.safetensors") / "v1-5.safetensors", "ldm import --ckpt"),
    "another file": (lambda t: only(t, "notes.txt") / "notes.txt", "--model takes a model directory"),
    "a ControlNet": (lambda t: only(t, "config.json", '{"_class_name": "ControlNetModel"}'), "is a ControlNet"),
    "TAESD": (lambda t: only(t, "config.json", '{"_class_name": "AutoencoderTiny"}'), "is TAESD"),
    "the hub's cache": (
        lambda t: only(t / "snapshots/0123", "model_index.json").parents[1], "give one of them, as in --model"
    ),
    "an imported first stage": (lambda t: only(t / "vqvae", "config.json").parent, "holds a first stage alone"),
    "nothing": (lambda t: only(t, "notes.txt"), "model_index.json: is missing"),
    "no directory": (lambda t: t / "nowhere", "there is no such directory"),
    "a hub id": (
        lambda _: Path("stabilityai/sd-turbo"),
        "not fetched from the hub: download it first (hf download stabilityai/sd-turbo --local-dir DIR)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_model_directory_is_told_apart(tmp_path: Path, name: str) -> None:
    place, said = PLACES[name]
    with pytest.raises(ModelError) as raised:
        read_card(place(tmp_path))
    assert said in str(raised.value)


def index(text: str) -> Callable[[Path], object]:
    return lambda d: (d / "model_index.json").write_text(text)


def json_text(part: str, text: str | bytes) -> Callable[[Path], object]:
    return lambda d: (d / part).write_bytes(text if isinstance(text, bytes) else text.encode())


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "index list": (index("[]"), "model_index.json: is not a JSON object"),
    "index null": (index("null"), "model_index.json: is not a JSON object"),
    "a component that is a string": (
        lambda d: change_json(d / "model_index.json", unet="UNet2DConditionModel"), "unet = 'UNet2DConditionModel' is"
    ),
    "a component that is an empty list": (lambda d: change_json(d / "model_index.json", vae=[]), "vae = [] is not"),
    "a component of one word": (lambda d: change_json(d / "model_index.json", vae=["x"]), "vae = ['x'] is not"),
    "a component of numbers": (lambda d: change_json(d / "model_index.json", unet=[1, 2]), "unet = [1, 2] is not"),
    "a component that is nested": (
        lambda d: change_json(d / "model_index.json", unet={"a": {"b": 1}}), "unet = {'a': {'b': 1}} is not"
    ),
    "no folder": (lambda d: shutil.rmtree(d / "vae"), "vae/config.json: is missing"),
    "no scheduler's file": (lambda d: shutil.rmtree(d / "scheduler"), "scheduler_config.json: is missing"),
    "a scheduler that is a list": (
        json_text("scheduler/scheduler_config.json", "[1]"), "scheduler_config.json: is not a JSON object"
    ),
    "no JSON": (json_text("unet/config.json", "{"), "unet/config.json: cannot be read"),
    "no text": (json_text("unet/config.json", b"\xff\xfe\x00"), "unet/config.json: cannot be read"),
    "huge": (json_text("unet/config.json", " " * (2**24 + 1)), "unet/config.json: is larger than 16 MiB"),
    "deep": (json_text("unet/config.json", "[" * 200_000), "unet/config.json: cannot be read: it is nested too deeply"),
    "NaN": (json_text("vae/config.json", '{"scaling_factor": NaN}'), "vae/config.json: cannot be read: NaN"),
    "an infinite scale": (config("vae", scaling_factor=float("inf")), "scaling_factor = inf"),
    "text for channels": (config("unet", in_channels="4"), "in_channels = '4'"),
    "a list for a size": (config("unet", sample_size=[64, 64]), "sample_size = [64, 64]"),
    "text for blocks": (config("vae", block_out_channels="abc"), "block_out_channels = 'abc'"),
    "no blocks": (config("unet", block_out_channels=[]), "block_out_channels = []"),
    "text among blocks": (config("unet", block_out_channels=[32, "64"]), "block_out_channels[1] = '64'"),
    "negative": (config("vae", latent_channels=-4), "latent_channels = -4"),
    "a number for a name": (config("unet", mid_block_type=3), "mid_block_type = 3"),
    "a text encoder of another width": (config("text_encoder", hidden_size=64), "cross_attention_dim = 32, text"),
    "channels of another autoencoder": (config("unet", out_channels=8), "out_channels = 8, the latents of vae have 4"),
    "groups that do not divide": (config("unet", norm_num_groups=7), "not all multiples of 7"),
    "text for a text encoder": (config("text_encoder", num_hidden_layers="x"), "num_hidden_layers = 'x'"),
    "a number for classes": (config("text_encoder", architectures=5), "architectures = 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_json_is_one_sentence_with_file_and_key(directory: Path, name: str) -> None:
    damage, said = MALFORMED[name]
    damage(directory)
    messages = []
    for look in (check_model, load_model):
        with pytest.raises(ModelError) as raised:
            look(directory)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert said in messages[0]


SETTINGS: dict[str, tuple[Any, str]] = {
    "max_pixels": ("abc", "max_pixels = 'abc': input should be a valid integer"),
    "native_size": (512, "native_size = 512"),
    "native_size ": ([512], "native_size"),
    "native_size  ": ([512, -1], "native_size[1] = -1"),
    "native_size   ": ([30, 32], "native_size: 30 and 32 must be multiples of 4"),
    "max_pixels ": (100, "native_size: 32x32 is over max_pixels = 100"),
    "tasks": ("x", "tasks = 'x'"),
    "tasks ": (["superres"], "tasks: this model does not do superres; it does txt2img, inpaint"),
    "tasks  ": ([], "tasks = ()"),
    "default_for": (["paint"], "default_for[0] = 'paint'"),
    "default_steps": (0, "default_steps = 0"),
    "default_steps ": (2000, "default_steps = 2000"),
    "default_steps  ": ([20], "default_steps = (20,)"),
    "default_guidance_scale": (None, "default_guidance_scale = None"),
    "default_guidance_scale ": (float("inf"), "default_guidance_scale = inf"),
    "inpaint_guidance_scale": (-1, "inpaint_guidance_scale = -1"),
    "samplers": (["dpm"], "samplers[0] = 'dpm'"),
    "default_sampler": ("dpm", "default_sampler = 'dpm'"),
    "tile": (-1, "tile = -1"),
    "labels": ([1], "labels[0] = 1"),
    "labels ": (["a cat"], "labels: 1 names, the model has 0 labels"),
    "text": ("yes", "text = 'yes'"),
    "created": (True, "created = True"),
    "owned_by": (5, "owned_by = 5"),
    "colour": ("red", "unknown key 'colour'"),
    "id": ("other", "unknown key 'id'"),
    "warnings": ([], "unknown key 'warnings'"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_value_in_service_json_is_named(directory: Path, name: str) -> None:
    value, said = SETTINGS[name]
    (directory / "service.json").write_text(json.dumps({name.strip(): value}))
    with pytest.raises(ModelError) as raised:
        read_card(directory)
    assert str(raised.value).startswith(f"{directory}/service.json: ")
    assert said in str(raised.value)


def test_what_service_json_says_comes_before_the_files(directory: Path) -> None:
    """As for a model distilled for few steps without guidance, of which its files know nothing."""
    given = {"default_steps": 1, "default_guidance_scale": 1, "tasks": ["txt2img"], "samplers": ["euler"]}
    (directory / "service.json").write_text(json.dumps(given))
    card = read_card(directory)
    assert (card.default_steps, card.default_guidance_scale, card.default_sampler) == (1, 1, "euler")
    assert card.tasks == ("txt2img",)
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
