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
from ldm_core.loading.content import hashing, outline
from ldm_core.loading.memory import refuse_without_room
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import read_card
from ldm_core.model_directory.components import UNSCALED, Components, find_components, scheduler_settings
from ldm_core.model_directory.json_files import read_json
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.conditioning import Condition
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from ldm_core.sampling.schedule import NoiseSchedule
from ldm_core.weights.placing import MAIN_MEMORY, Place, release_files
from ldm_core.weights.reading import build_strictly, read_weights, weights_file

Shared = dict[str, nn.Module]
Builder = Callable[[Path, Place], nn.Module]
Builders = Mapping[Path, Builder]
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
    hold it once. Raises ModelError naming file and key, or the memory that is needed and the memory that is free.
    """
    root = Path(directory)
    parts = find_components(root)
    card = read_card(root)
    place, builders = Place(torch.device(device), dtype), _builders(parts)
    if place.device.type == "cuda":
        settle_arithmetic()
    shared = {} if shared is None else shared
    networks, hashes = _networks(root, builders, place, shared)

    def first_stage_in_float32() -> Autoencoder:
        of_first_stage = {parts.first_stage: builders[parts.first_stage]}
        loaded, _ = _networks(root, of_first_stage, Place(place.device, torch.float32), shared)
        return cast("Autoencoder", loaded[parts.first_stage])

    return LatentDiffusion(
        card=card,
        unet=cast("UNet", networks[parts.unet]),
        autoencoder=cast("Autoencoder", networks[parts.first_stage]),
        condition=Condition() if parts.condition is None else cast("Condition", networks[parts.condition]),
        schedule=_schedule(parts, parts.scheduler),
        low_res_schedule=_low_res_schedule(root, parts, card),
        device=place.device,
        dtype=dtype,
        capture=capture_on(place.device),
        load_in_float32=first_stage_in_float32,
        upcasts=_upcasts(parts, dtype),
        digest=_digest([*hashes, *_settings(root, parts.scheduler, root / LOW_RES)]),
    )


def _networks(root: Path, builders: Builders, place: Place, shared: Shared) -> tuple[dict[Path, nn.Module], list[str]]:
    """The networks by their folders, and the hash of each one's content.

    Content is hashed while the networks are built. Only a network that may be in `shared` waits for its hash first.
    """
    networks: dict[Path, nn.Module] = {}
    with hashing(builders) as hashes:
        kinds = {path: f"{build.__name__}:{place}:{outline(path)}:" for path, build in builders.items()}
        for path, kind in kinds.items():
            if any(key.startswith(kind) for key in shared) and (key := kind + hashes[path]()) in shared:
                networks[path] = shared[key]
        refuse_without_room(root, builders.keys() - networks.keys(), place)
        for path in [path for path in builders if path not in networks]:
            networks[path] = _built(path, builders[path], place)
        keys = {path: hashes[path]() for path in builders}
    shared |= {kinds[path] + keys[path]: network for path, network in networks.items()}
    return networks, [*keys.values()]


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
            _described(path, build, MAIN_MEMORY)
    _schedule(parts, parts.scheduler)
    _low_res_schedule(root, parts, card)
    return card


def _built(path: Path, build: Builder, place: Place) -> nn.Module:
    """A network from its folder, ready to be called. Raises ModelError."""
    network = accelerate(_described(path, build, place))
    release_files(network)
    return network


def _described(path: Path, build: Builder, place: Place) -> nn.Module:
    """A network from its folder; numbers that do not fit each other are a ModelError as well."""
    try:
        return build(path, place)
    except torch.OutOfMemoryError as error:  # another process has taken what was free
        raise ModelError(path, f"does not fit into the memory of {place.device}: {_reason(error)}") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        raise ModelError(path / "config.json", f"describes no network that can be built ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _builders(parts: Components) -> dict[Path, Builder]:
    """How each network of a model is built from its folder."""
    first_stage = _build_unscaled if parts.pipeline == UNSCALED else _build_first_stage
    builders: dict[Path, Builder] = {parts.unet: _build_unet, parts.first_stage: first_stage}
    return builders if parts.condition is None else {**builders, parts.condition: build_condition}


def _settings(root: Path, *schedulers: Path) -> list[str]:
    """What decides of an image beside the networks, as text."""
    files = [root / "service.json", *(path / "scheduler_config.json" for path in schedulers)]
    return [file.read_text() for file in files if file.exists()]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _build_unet(path: Path, place: Place = MAIN_MEMORY) -> UNet:
    config = UNetConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    if config.num_class_embeds and not (path.parent / LOW_RES).exists():
        raise ModelError(path / "config.json", "num_class_embeds is for the noise levels of super-resolution alone")
    return build_strictly(lambda: UNet(config), read_weights(path), weights_file(path), place)


def load_first_stage(path: Path) -> Autoencoder:
    """An autoencoder's own directory, float32 on the CPU. Raises ModelError."""
    autoencoder = _build_first_stage(path, MAIN_MEMORY)
    release_files(autoencoder)
    return autoencoder.eval().requires_grad_(False)


def _build_first_stage(path: Path, place: Place) -> Autoencoder:
    return _first_stage(path, read_json(path / "config.json"), place)


def _build_unscaled(path: Path, place: Place) -> Autoencoder:
    return _first_stage(path, {**read_json(path / "config.json"), "scaling_factor": 1.0}, place)


def _first_stage(path: Path, config: Mapping[str, Any], place: Place) -> Autoencoder:
    read = AutoencoderConfig.from_json(config, str(path / "config.json"))
    state = {_modern_name(key): value for key, value in read_weights(path).items()}
    return build_strictly(lambda: Autoencoder(read), state, weights_file(path), place)


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
