"""Reads the configuration of a CLIP, or of its text half, within bounds, before anything of its size is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from transformers import CLIPConfig, CLIPTextConfig

from ldm_core.errors import ModelError
from ldm_core.model_directory.json_files import read_json

Config = TypeVar("Config", CLIPConfig, CLIPTextConfig)

# sizes of the networks, and the most of each: far above any model's
LIMITS: Mapping[str, int] = {
    "vocab_size": 2**20, "num_hidden_layers": 256, "num_attention_heads": 256, "image_size": 2**13, "patch_size": 2**13,
    "num_channels": 64,
    **dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim", "max_position_embeddings"), 2**16),
}  # fmt: skip
USUAL = ("quick_gelu", "gelu")  # activations
HALVES = ("text_config", "vision_config")


def read_clip_config(path: Path, kind: type[Config]) -> Config:
    """`config.json` in a component's folder. Raises ModelError naming the key."""
    file = path / "config.json"
    data = read_json(file)
    for key, value, most in _sizes(data):
        if type(value) is not int or not 1 <= value <= most:
            raise ModelError(file, f"{key} = {value!r:.60} must be a whole number from 1 to {most}")
    for problem in _problems(data):
        raise ModelError(file, problem)
    try:
        return kind(**data)
    except Exception as error:  # the library raises what it likes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(file, f"is no configuration of {kind.__name__.removesuffix('Config')}: {reason}") from None


def _sizes(data: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any, int]]:
    """Every size that is given: its key, its value and the most that it may be."""
    for key, most in LIMITS.items():
        if key in data:
            yield f"{place}{key}", data[key], most
    for half in HALVES:
        if isinstance(data.get(half), dict):
            yield from _sizes(data[half], f"{place}{half}.")


def _problems(data: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What the library finds out only when a network is built, or runs. The sizes have been checked."""
    width, heads = data.get("hidden_size"), data.get("num_attention_heads")
    if width is not None and heads is not None and width % heads:
        yield f"{place}num_attention_heads = {heads} does not divide hidden_size = {width}"
    if not _is_activation(activation := data.get("hidden_act", USUAL[0])):
        yield f"{place}hidden_act = {activation!r:.60} is no activation"
    for half in HALVES:
        if isinstance(data.get(half), dict):
            yield from _problems(data[half], f"{place}{half}.")


def _is_activation(name: Any) -> bool:
    if name in USUAL:
        return True
    from transformers.activations import ACT2FN  # here, as it takes seconds that the usual ones need not wait for

    return isinstance(name, str) and name in ACT2FN
