"""A first stage from elsewhere than the checkpoint: a file of the research code or of diffusers, or a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from ldm_core.checkpoints.components import Checkpoint, parameters
from ldm_core.checkpoints.keys import Tidied
from ldm_core.checkpoints.names import Source, first_stage_source
from ldm_core.errors import ModelError
from ldm_core.model_directory.components import FIRST_STAGES, read_json
from ldm_core.networks.autoencoder import KL, VQ, Autoencoder, AutoencoderConfig
from ldm_core.weights.checkpoint import open_checkpoint
from ldm_core.weights.reading import weights_file
from ldm_core.weights.recognising import refuse_other_models

PREFIX = "first_stage_model."
UNUSED = ("loss.", "model_ema.")
FREE = ("sample_size", "scaling_factor")  # of the configuration: what may differ, or is compared as a number
NO_SCALE = 1.0  # what an import of a first stage alone writes: only a diffusion model knows the scale of its latents


def write_given(
    vae: Path, config: AutoencoderConfig, folder: Path, yaml: Path, progress: Callable[[str], None]
) -> None:
    """Writes the first stage of `vae`, which must be the one that `config` describes. Raises ModelError."""
    vae = _own_folder(vae)
    file = weights_file(vae) if vae.is_dir() else vae
    if vae.is_dir():
        _check(vae / "config.json", config, yaml)
    with torch.device("meta"):
        wanted = parameters(Autoencoder(config))
    with open_checkpoint(file) as state:
        whole = any(key.startswith(PREFIX) for key in state)
        if not whole:
            refuse_other_models(file, state)
        modern = any(key.startswith("encoder.down_blocks.") for key in state)
        source, names = (Source, _old_names(state)) if modern else (first_stage_source(config), {})
        checkpoint = Checkpoint(file, yaml, Tidied(state), progress)
        checkpoint.write(
            folder, config.to_json(), wanted, source, PREFIX if whole else "", lambda key: names.get(key, key)
        )
        if not whole:
            checkpoint.refuse_unused(UNUSED)


def _own_folder(vae: Path) -> Path:
    """The first stage inside a model directory, or inside what an import of a first stage writes; else `vae` itself."""
    if (vae / "config.json").exists():
        return vae
    return next((vae / name for name in FIRST_STAGES if (vae / name / "config.json").exists()), vae)


def _old_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Where the parameters lie that diffusers had under other names before 0.15."""
    # here, as it takes a second that no other import needs to wait for
    from ldm_core.loading.model import OLD_ATTENTION

    names = {}
    for key in state:
        modern = key
        for old, new in OLD_ATTENTION.items():
            modern = modern.replace(old, new)
        names[modern] = key
    return names


def _check(file: Path, wanted: AutoencoderConfig, yaml: Path) -> None:
    data = read_json(file)
    if (named := data.get("_class_name")) not in {KL, VQ}:
        raise ModelError(file, f"is of class {named!r}, not of {KL} or {VQ}")
    found = AutoencoderConfig.from_json(data, str(file))
    scale = found.scaling_factor
    if scale != NO_SCALE and abs(scale - wanted.scaling_factor) > 1e-4 * wanted.scaling_factor:
        scales = f"scaling_factor = {scale}; {yaml.name} has {wanted.scaling_factor}"
        raise ModelError(file, f"{scales}: its latents are not those that the model was trained on")
    names = (field.name for field in fields(wanted) if field.name not in FREE)
    for name in names:
        if getattr(found, name) != getattr(wanted, name):
            raise ModelError(file, f"{name} = {getattr(found, name)}; {yaml.name} asks for {getattr(wanted, name)}")
