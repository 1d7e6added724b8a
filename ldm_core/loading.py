"""Reads a diffusers-layout directory into a LatentDiffusion; what is missing, unexpected or unsupported is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ldm_core.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.config import read_card, read_json
from ldm_core.errors import ModelError
from ldm_core.model import LatentDiffusion
from ldm_core.schedule import NoiseSchedule
from ldm_core.text_encoder import TextEncoder
from ldm_core.unet import UNet
from ldm_core.unet_config import UNetConfig

Module = TypeVar("Module", bound=nn.Module)
Shared = dict[str, nn.Module]

# attention names that diffusers used in autoencoders before 0.15; published Stable Diffusion files still have them
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def load_model(
    directory: Path | str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    shared: Shared | None = None,
) -> LatentDiffusion:
    """Loads a model directory for inference; its id is the directory's name.

    `shared` keeps components between calls: two directories with the same autoencoder or text encoder, by content,
    hold it once. Raises ModelError naming file and key.
    """
    root = Path(directory)
    shared = {} if shared is None else shared
    index = read_json(root / "model_index.json")
    for component in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not isinstance(index.get(component), list):
            raise ModelError(root / "model_index.json", f"component {component!r} is missing")
    place = (torch.device(device), dtype)
    unet = _component(root / "unet", _build_unet, shared, *place)
    autoencoder = _component(root / "vae", _build_autoencoder, shared, *place)
    text = _component(root / "text_encoder", lambda path: _build_text(path, root / "tokenizer"), shared, *place)
    schedule = _schedule(root / "scheduler")
    low_res = root / "low_res_scheduler"
    return LatentDiffusion(
        card=read_card(root),
        unet=unet,
        autoencoder=autoencoder,
        text=text,
        schedule=schedule,
        low_res_schedule=_schedule(low_res) if low_res.exists() else schedule,
        device=place[0],
        dtype=dtype,
    )


def load_strictly(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict` whose error lists what is missing, unexpected, of another shape or not finite."""
    expected = module.state_dict()
    problems = [
        *_listed("missing", [key for key in expected if key not in state]),
        *_listed("unexpected", [key for key in state if key not in expected]),
        *_listed("of another shape", [k for k, v in state.items() if k in expected and v.shape != expected[k].shape]),
        *_listed("not finite", [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]),
    ]
    if problems:
        raise ModelError(path, "; ".join(problems))
    module.load_state_dict(state, assign=False)


def _listed(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return [f"{what}: {', '.join(keys[:5])}{more}"]


def _component(
    path: Path, build: Callable[[Path], Module], shared: Shared, device: torch.device, dtype: torch.dtype
) -> Module:
    key = f"{build.__name__}:{_content_hash(path)}:{device}:{dtype}"
    if key not in shared:
        shared[key] = build(path).to(device=device, dtype=dtype).eval().requires_grad_(False)
    return shared[key]  # type: ignore[return-value]


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for file in (path / "config.json", weights_file(path)):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def weights_file(path: Path) -> Path:
    """The safetensors file of a component, whichever of the names diffusers and transformers give it."""
    read_json(path / "config.json")
    for name in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            file = path / f"{name}{variant}.safetensors"
            if file.exists():
                return file
    raise ModelError(path, "has no .safetensors file")


def read_weights(path: Path) -> dict[str, Tensor]:
    file = weights_file(path)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(file, f"cannot be read: {error}") from None


def _build_unet(path: Path) -> UNet:
    unet = UNet(UNetConfig.from_json(read_json(path / "config.json"), str(path / "config.json")))
    load_strictly(unet, read_weights(path), weights_file(path))
    return unet


def _build_autoencoder(path: Path) -> Autoencoder:
    autoencoder = Autoencoder(AutoencoderConfig.from_json(read_json(path / "config.json"), str(path / "config.json")))
    state = {_modern_name(key): value for key, value in read_weights(path).items()}
    load_strictly(autoencoder, state, weights_file(path))
    return autoencoder


def _modern_name(key: str) -> str:
    for old, new in OLD_ATTENTION.items():
        key = key.replace(old, new)
    return key


def _build_text(path: Path, tokenizer: Path) -> TextEncoder:
    transformer = CLIPTextModel(CLIPTextConfig(**read_json(path / "config.json")))
    # written by transformers 4 with this prefix, by transformers 5 without
    state = {key.removeprefix("text_model."): value for key, value in read_weights(path).items()}
    prefix = "text_model." if any(key.startswith("text_model.") for key in transformer.state_dict()) else ""
    state = {prefix + key: value for key, value in state.items() if not key.endswith("position_ids")}
    load_strictly(transformer, state, weights_file(path))
    try:
        return TextEncoder(CLIPTokenizer.from_pretrained(str(tokenizer)), transformer)
    except (OSError, ValueError) as error:
        raise ModelError(tokenizer, f"cannot be read: {str(error).splitlines()[0]}") from None


def _schedule(path: Path) -> NoiseSchedule:
    file = path / "scheduler_config.json"
    return NoiseSchedule.from_config(read_json(file), str(file))
