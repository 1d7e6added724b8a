"""Weights are read from mapped files, checked once, and lie in memory of their own when a model is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_core.errors import ModelError
from ldm_core.loading.content import hashing
from ldm_core.loading.model import load_model
from ldm_core.model_directory.weight_files import read_header
from ldm_core.weights import mapped as mapping
from ldm_core.weights.placing import MAIN_MEMORY, placed
from ldm_core.weights.reading import build_strictly

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin/scenes"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUILTIN, tmp_path / "copy"))


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(300, 100), "half": torch.randn(300, 200).half(), "whole": torch.arange(70_000),
        "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "brain": torch.randn(7).bfloat16(),
        "flags": torch.tensor([True, False, True]),
    }  # fmt: skip


def mappings_of(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


@pytest.mark.parametrize("shift", range(8))
@pytest.mark.parametrize("piece", [1, 2**17, mapping.PIECE])
def test_a_file_is_read_as_the_safetensors_library_reads_it(
    tmp_path: Path, shift: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever its numbers begin: the library pads its headers to 8 bytes, other writers do not."""
    monkeypatch.setattr(mapping, "PIECE", piece)
    file = tmp_path / "weights.safetensors"
    save_file(state(), file)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length] + b" " * shift
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    found, theirs = mapping.mapped(file, read_header(file)), load_file(file)
    assert found.keys() == theirs.keys()
    for name, value in theirs.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_a_piece_of_a_file_is_unmapped_with_its_last_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "PIECE", 1)
    file = tmp_path / "weights.safetensors"
    save_file(state(), file)
    found = mapping.mapped(file, read_header(file))
    assert len(mappings_of(tmp_path)) == 3, "the others are small"
    del found["matrix"], found["half"]
    assert len(mappings_of(tmp_path)) == 1
    found.clear()
    assert not mappings_of(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_depends_on_no_file(directory: Path, dtype: torch.dtype) -> None:
    model = load_model(directory, "cpu", dtype)
    networks = (model.unet, model.autoencoder, model.condition)
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in networks]
    assert all(value.is_contiguous() for weights in before for value in weights.values())
    assert not mappings_of(directory)
    for file in directory.rglob("*.safetensors"):
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
    for network, weights in zip(networks, before, strict=True):
        assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_buffers_that_no_file_has_are_computed(tmp_path: Path) -> None:
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=50,
        max_position_embeddings=9,
    )  # fmt: skip
    plain = CLIPTextModel(config)
    built = build_strictly(lambda: CLIPTextModel(config), dict(plain.state_dict()), tmp_path / "text" / "weights")
    assert {name: value.tolist() for name, value in built.named_buffers()} == {
        name: value.tolist() for name, value in plain.named_buffers()
    }
    assert not any(value.is_meta for value in (*built.parameters(), *built.buffers()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_number_that_is_not_finite_is_found(value: float, dtype: torch.dtype) -> None:
    for at in (0, 5_000, 9_999):
        weights = {"sound": torch.randn(10_000).to(dtype), "spoilt": torch.randn(10_000).to(dtype)}
        weights["spoilt"][at] = value
        assert placed(weights, MAIN_MEMORY)[1]["not finite"] == ["spoilt"]
        assert not weights, "each weight is held once"


def test_large_numbers_are_finite() -> None:
    most = torch.finfo(torch.float32).max
    assert not any(placed({"large": torch.full((10_000,), most)}, MAIN_MEMORY)[1].values())


def test_weights_that_the_dtype_cannot_hold_are_refused_and_named(directory: Path) -> None:
    weights = load_file(directory / UNET)
    weights["conv_in.bias"] = weights["conv_in.bias"].float()
    weights["conv_in.bias"][0] = 70_000.0
    save_file(weights, directory / UNET)
    load_model(directory)
    with pytest.raises(ModelError, match=r"unet/.*\.safetensors: beyond float16: conv_in\.bias$"):
        load_model(directory, "cpu", torch.float16)


def test_the_digest_is_that_of_the_bytes(directory: Path) -> None:
    """Other workers compare it, those of earlier versions too."""

    def component(*files: Path) -> str:
        return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()

    parts = [component(directory / f"{name}/config.json", *directory.glob(f"{name}/*.safetensors")) for name in
             ("unet", "vae")]  # fmt: skip
    tokenizer = sorted(directory.glob("tokenizer/*.*"))
    text = directory / "text_encoder"
    parts.append(component(text / "config.json", text / "model.safetensors", *tokenizer))
    settings = [(directory / name).read_text() for name in ("service.json", "scheduler/scheduler_config.json")]
    assert load_model(directory).digest == hashlib.sha256("\0".join([*parts, *settings]).encode()).hexdigest()


def test_components_are_shared_by_content_and_not_by_size(directory: Path, tmp_path: Path) -> None:
    same, other = (Path(shutil.copytree(directory, tmp_path / name)) for name in ("same", "other"))
    weights = load_file(other / UNET)
    weights["conv_in.bias"][0] += 1
    save_file(weights, other / UNET)
    shared: dict[str, torch.nn.Module] = {}
    first, second, third = (load_model(path, shared=shared) for path in (directory, same, other))
    assert (second.unet, second.autoencoder) == (first.unet, first.autoencoder)
    assert third.autoencoder is first.autoencoder
    assert third.unet is not first.unet
    in_bfloat16 = load_model(directory, dtype=torch.bfloat16, shared=shared)
    assert in_bfloat16.unet is not first.unet


def test_hashing_that_nobody_waits_for_ends_with_its_block(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.truncate(2**42)  # would take an hour
    with pytest.raises(ModelError, match="beside it"), hashing([tmp_path]):
        raise ModelError(file, "beside it")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hash")]


def test_a_header_that_the_format_forbids_is_refused(directory: Path) -> None:
    file = directory / UNET
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps({**json.loads(data[8 : 8 + length]), "__metadata__": {"format": 1}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    with pytest.raises(ModelError, match=r"safetensors: cannot be read"):
        load_model(directory)
