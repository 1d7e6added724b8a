"""Reads a diffusers-layout directory into a LatentDiffusion; what is missing, unexpected or unsupported is named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ldm_core.acceleration.accelerate import accelerate, capture_on
from ldm_core.arithmetic import settle_arithmetic
from ldm_core.card import ModelCard
from ldm_core.errors import ModelError
from ldm_core.loading.condition import build_condition
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import read_card
from ldm_core.model_directory.components import CONDITIONS, UNSCALED, Components, find_components, scheduler_settings
from ldm_core.model_directory.json_files import read_json
from ldm_core.model_directory.weight_files import find_weights
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.conditioning import Condition
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from ldm_core.sampling.schedule import NoiseSchedule
from ldm_core.weights.reading import build_strictly, read_weights, weights_file

Shared = dict[str, nn.Module]
LOW_RES = "low_res_scheduler"

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
    card = read_card(root)
    place = (torch.device(device), dtype)
    if place[0].type == "cuda":
        settle_arithmetic()
    builders = _builders(parts)
    try:
        hashes = {path: _content_hash(path) for path in builders}
    except OSError as error:
        raise ModelError(error.filename, f"cannot be read: {error.strerror}") from None

    def component(path: Path, dtype: torch.dtype = dtype) -> nn.Module:
        build = builders[path]
        key = f"{build.__name__}:{hashes[path]}:{(place[0], dtype)}"
        if key not in shared:
            shared[key] = accelerate(_built(path, build).to(device=place[0], dtype=dtype))
        return shared[key]

    return LatentDiffusion(
        card=card,
        unet=cast("UNet", component(parts.unet)),
        autoencoder=cast("Autoencoder", component(parts.first_stage)),
        condition=Condition() if parts.condition is None else cast("Condition", component(parts.condition)),
        schedule=_schedule(parts, parts.scheduler),
        low_res_schedule=_low_res_schedule(root, parts, card),
        device=place[0],
        dtype=dtype,
        capture=capture_on(place[0]),
        load_in_float32=lambda: cast("Autoencoder", component(parts.first_stage, torch.float32)),
        upcasts=_upcasts(parts, dtype),
        digest=_digest([*hashes.values(), *_settings(root, parts.scheduler, root / LOW_RES)]),
    )


def _upcasts(parts: Components, dtype: torch.dtype) -> bool:
    """Whether images are decoded in float32. Of our pipelines, diffusers' upscaling one alone heeds `force_upcast`."""
    upcast = read_json(parts.first_stage / "config.json").get("force_upcast")
    return bool(upcast) and dtype == torch.float16 and parts.pipeline == "StableDiffusionUpscalePipeline"


def check_model(directory: Path | str) -> ModelCard:
    """The judgement of `load_model` on everything but the numbers in the weights, which are not read.

    Builds the networks without memory and holds the names and shapes in the headers against them. Raises ModelError.
    """
    root = Path(directory)
    parts, card = find_components(root), read_card(root)
    with torch.device("meta"):
        for path, build in _builders(parts).items():
            _built(path, build)
    _schedule(parts, parts.scheduler)
    _low_res_schedule(root, parts, card)
    return card


def _built(path: Path, build: Callable[[Path], nn.Module]) -> nn.Module:
    """A network from its folder; numbers that do not fit each other are a ModelError as well."""
    try:
        return build(path)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        detail = f"describes no network that can be built ({reason})"
        raise ModelError(path / "config.json", detail) from error


def _builders(parts: Components) -> dict[Path, Callable[[Path], nn.Module]]:
    """How each network of a model is built from its folder."""
    first_stage = _build_unscaled if parts.pipeline == UNSCALED else load_first_stage
    builders: dict[Path, Callable[[Path], nn.Module]] = {parts.unet: _build_unet, parts.first_stage: first_stage}
    return builders if parts.condition is None else {**builders, parts.condition: build_condition}


def _settings(root: Path, *schedulers: Path) -> list[str]:
    """What decides of an image beside the networks, as text."""
    files = [root / "service.json", *(path / "scheduler_config.json" for path in schedulers)]
    return [file.read_text() for file in files if file.exists()]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _content_hash(path: Path) -> str:
    """Of all that a component is made from; a text encoder's tokenizer lies beside it."""
    read_json(path / "config.json")
    files = [path / "config.json"]
    if path.name != "condition" or any(path.glob("*.safetensors")):  # some condition encoders have no weights
        files += find_weights(path)
    if path.name in CONDITIONS:
        files += sorted((path.parent / "tokenizer").glob("*.*"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _build_unet(path: Path) -> UNet:
    config = UNetConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    if config.num_class_embeds and not (path.parent / LOW_RES).exists():
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


def _low_res_schedule(root: Path, parts: Components, card: ModelCard) -> NoiseSchedule | None:
    """By which super-resolution noises the small image; None where it sees it as it is."""
    if LOW_RES not in parts.classes and not (root / LOW_RES).exists():
        return None
    schedule = _schedule(parts, root / LOW_RES)
    if card.noise_level >= len(schedule):
        detail = f"noise_level = {card.noise_level} is not below the {len(schedule)} timesteps of {LOW_RES}"
        raise ModelError(root / "service.json", detail)
    return schedule


def _schedule(parts: Components, path: Path) -> NoiseSchedule:
    settings, file = scheduler_settings(parts, path)
    return NoiseSchedule.from_config(settings, str(file))
