"""Reads a model directory's card from its JSON files alone, so that listing models needs no torch and no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ldm_core.config import ModelCard
from ldm_core.errors import ModelError


def peek_card(directory: Path | str) -> ModelCard:
    """The card of a diffusers-layout directory. Raises ModelError naming the file; the weights are not looked at."""
    root = Path(directory)
    unet, vae = _json(root / "unet/config.json"), _json(root / "vae/config.json")
    latents = int(vae.get("latent_channels", 4))
    factor = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
    channels = int(unet.get("in_channels", 4))
    tasks = {latents: ["txt2img"], 2 * latents + 1: ["txt2img", "inpaint"], latents + 3: ["superres"]}
    if channels not in tasks:
        raise ModelError(root / "unet/config.json", f"in_channels = {channels} fits none of our tasks")
    side = int(unet.get("sample_size") or 64) * factor
    card: dict[str, Any] = {
        "tasks": tasks[channels],
        "native_size": [side, side],
        "size_multiple": factor * 2 ** (len(unet.get("block_out_channels", (320, 640, 1280, 1280))) - 1),
        "max_pixels": 4 * side * side,
        "default_steps": 50,
        "default_guidance_scale": 7.5,
        "scale": factor if channels == latents + 3 else 1,
    }
    if (root / "service.json").exists():
        card.update(_json(root / "service.json"))
    try:
        return ModelCard.from_json({**card, "id": root.resolve().name})
    except TypeError as error:
        raise ModelError(root / "service.json", str(error).split(") ", 1)[-1]) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(path, "is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(path, "is not a JSON object")
    return data
