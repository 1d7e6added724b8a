"""A model directory loads wholly or not at all, and the error names file and key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_core.errors import ModelError
from ldm_core.loading.model import load_model

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin/scenes"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUILTIN, tmp_path / "copy"))


def change_json(file: Path, **changes: Any) -> None:
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, **changes}))


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


UNET = "unet/diffusion_pytorch_model.safetensors"
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda d: (d / "model_index.json").unlink(), r"model_index\.json: is missing"),
    "index is no JSON": (lambda d: (d / "model_index.json").write_text("{"), r"model_index\.json: cannot be read"),
    "no unet": (lambda d: shutil.rmtree(d / "unet"), r"unet/config\.json: is missing"),
    "no weights": (lambda d: (d / UNET).unlink(), r"unet: has no \.safetensors file"),
    "cut weights": (lambda d: (d / UNET).write_bytes((d / UNET).read_bytes()[:5000]), r"safetensors: cannot be read"),
    "key missing": (lambda d: change_weights(d / UNET, lambda s: s.pop("conv_in.bias")), r"missing: conv_in\.bias"),
    "key unexpected": (
        lambda d: change_weights(d / UNET, lambda s: s.update(extra=torch.zeros(1))),
        r"unexpected: extra",
    ),
    "wrong shape": (
        lambda d: change_weights(d / UNET, lambda s: s.update({"conv_in.bias": torch.zeros(3)})),
        r"of another shape: conv_in\.bias",
    ),
    "not finite": (
        lambda d: change_weights(d / UNET, lambda s: s["conv_in.bias"].fill_(torch.nan)),
        r"not finite: conv_in\.bias",
    ),
    "unknown network key": (lambda d: change_json(d / "unet/config.json", wings=2), r"unknown key 'wings'"),
    "unsupported network value": (
        lambda d: change_json(d / "unet/config.json", act_fn="gelu"),
        r"unet/config\.json: act_fn = 'gelu' is not supported",
    ),
    "unsupported prediction": (
        lambda d: change_json(d / "scheduler/scheduler_config.json", prediction_type="flow"),
        r"scheduler_config\.json: prediction_type = 'flow'",
    ),
    "no tokenizer": (lambda d: shutil.rmtree(d / "tokenizer"), r"tokenizer: is missing"),
    "unknown service key": (lambda d: change_json(d / "service.json", colour="red"), r"service\.json: .*'colour'"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_directory_is_refused_with_file_and_key(directory: Path, name: str) -> None:
    damage, message = BREAKS[name]
    damage(directory)
    with pytest.raises(ModelError, match=message):
        load_model(directory, "cpu", torch.float32)


def test_published_variants_load(directory: Path) -> None:
    """Older attention names in the autoencoder, an `.fp16` file name, a transformers-4 prefix in the text encoder."""
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    vae = directory / "vae/diffusion_pytorch_model.safetensors"

    def old(key: str) -> str:
        for new, past in names.items():
            key = key.replace(new, past)
        return key

    save_file({old(k): v for k, v in load_file(vae).items()}, vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    vae.unlink()
    text = directory / "text_encoder/model.safetensors"
    state = {key.removeprefix("text_model."): value for key, value in load_file(text).items()}
    save_file({f"text_model.{key}": value for key, value in state.items()}, text)
    plain, variant = (load_model(path, "cpu", torch.float32) for path in (BUILTIN, directory))
    for ours, theirs in ((plain.autoencoder, variant.autoencoder), (plain.condition, variant.condition)):
        for key, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key
