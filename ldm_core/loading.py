"""Reads a diffusers-layout directory into a LatentDiffusion; what is missing, unexpected or unsupported is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ldm_core.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.condition_loading import build_condition
from ldm_core.conditioning import Condition
from ldm_core.config import read_card
from ldm_core.directory import CONDITIONS, UNSCALED, find_components, read_json
from ldm_core.errors import ModelError
from ldm_core.model import LatentDiffusion
from ldm_core.packed import for_inference
from ldm_core.schedule import NoiseSchedule
from ldm_core.unet import UNet
from ldm_core.unet_config import UNetConfig
from ldm_core.weights import build_strictly, read_weights, weights_file

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
    parts = find_components(root)
    place = (torch.device(device), dtype)
    low_res = root / "low_res_scheduler"
    first_stage = _build_unscaled if parts.pipeline == UNSCALED else load_first_stage
    hashes = {
        path: _content_hash(path) for path in (parts.unet, parts.first_stage, parts.condition) if path is not None
    }

    def component(path: Path, build: Callable[[Path], Module]) -> Module:
        key = f"{build.__name__}:{hashes[path]}:{place}"
        if key not in shared:
            network = build(path).to(device=place[0], dtype=dtype)
            if place[0].type == "cuda":  # cuDNN would bring every weight into it at every call
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            shared[key] = for_inference(network)
        return shared[key]  # type: ignore[return-value]

    return LatentDiffusion(
        card=read_card(root),
        unet=component(parts.unet, _build_unet),
        autoencoder=component(parts.first_stage, first_stage),
        condition=Condition() if parts.condition is None else component(parts.condition, build_condition),
        schedule=_schedule(parts.scheduler),
        low_res_schedule=_schedule(low_res) if low_res.exists() else None,
        device=place[0],
        dtype=dtype,
        digest=_digest([*hashes.values(), *_settings(root, parts.scheduler, low_res)]),
    )


def _settings(root: Path, *schedulers: Path) -> list[str]:
    """What decides of a picture beside the networks, as text."""
    files = [root / "service.json", *(path / "scheduler_config.json" for path in schedulers)]
    return [file.read_text() for file in files if file.exists()]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _content_hash(path: Path) -> str:
    """Of all that a component is made from; a text encoder's tokenizer lies beside it."""
    read_json(path / "config.json")
    files = [path / "config.json", *sorted(path.glob("*.safetensors"))]
    if path.name in CONDITIONS:
        files += sorted((path.parent / "tokenizer").glob("*.*"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _build_unet(path: Path) -> UNet:
    config = UNetConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    if config.num_class_embeds and not (path.parent / "low_res_scheduler").exists():
        raise ModelError(path / "config.json", "num_class_embeds is for the noise levels of super-resolution alone")
    return build_strictly(lambda: UNet(config), read_weights(path), weights_file(path))


def load_first_stage(path: Path) -> Autoencoder:
    """An autoencoder's own directory, float32 on the CPU. Raises ModelError."""
    return _first_stage(path, read_json(path / "config.json")).eval().requires_grad_(False)


def _build_unscaled(path: Path) -> Autoencoder:
    return _first_stage(path, {**read_json(path / "config.json"), "scaling_factor": 1.0})


def _first_stage(path: Path, config: Mapping[str, Any]) -> Autoencoder:
    read = AutoencoderConfig.from_json(config, str(path / "config.json"))
    state = {_modern_name(key): value for key, value in read_weights(path).items()}
    return build_strictly(lambda: Autoencoder(read), state, weights_file(path))


def _modern_name(key: str) -> str:
    for old, new in OLD_ATTENTION.items():
        key = key.replace(old, new)
    return key


def _schedule(path: Path) -> NoiseSchedule:
    file = path / "scheduler_config.json"
    return NoiseSchedule.from_config(read_json(file), str(file))
