"""Reads one of the research repositories' yaml files as data: what is unknown, missing or out of bounds is named."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_core.checkpoints.yaml_reading import load_yaml
from ldm_core.errors import ModelError

Yaml = Mapping[str, Any]

MOST = 2**16  # channels, tokens, sizes: far above any model's
LEVELS = 10
DDPM = "ldm.models.diffusion.ddpm."
UNCLIP = "draws from CLIP's embedding of an image (unCLIP), for which this service has no task"
# models of the same and later repositories that are of another family, by target
OTHERS: Mapping[str, str] = {
    f"{DDPM}LatentDepth2ImageDiffusion": "is Stable Diffusion 2 depth, which needs the depth maps of a MiDaS network; "
    "this service has none",
    f"{DDPM}ImageEmbeddingConditionedLatentDiffusion": UNCLIP,
    "sgm.models.diffusion.DiffusionEngine": "is a configuration of generative-models (SDXL and later); those of "
    "latent-diffusion, stable-diffusion and stablediffusion are read",
}
KARLO = ("prior", "t2i-decoder", "improved_sr_64_256")


def shown(value: object) -> str:
    """A value as a message shows it: short, however large it is and however often its parts repeat."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict, short.maxstring, short.maxother = 2, 4, 4, 60, 60
    return short.repr(value)


def read_yaml(path: Path) -> Yaml:
    """The `model` of a configuration: its target and parameters. Raises ModelError."""
    data = load_yaml(path)
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict):
        raise ModelError(path, "has no model with a target")
    if isinstance(kind := model.get("type"), str) and kind in KARLO:
        raise ModelError(path, f"is one of Karlo's configurations: it {UNCLIP}")
    if not isinstance(target := model.get("target"), str):
        raise ModelError(path, "has no model with a target")
    if target in OTHERS:
        raise ModelError(path, OTHERS[target])
    return model


class Reader:
    """Takes keys out of one mapping of the yaml; what is left at the end is unknown and refused."""

    def __init__(self, path: Path, place: str, data: Yaml) -> None:
        if not isinstance(data, Mapping):
            raise ModelError(path, f"{place} is no mapping")
        self.path, self.place, self._left = path, place, dict(data)

    def take(self, key: str, default: Any = None) -> Any:
        """A key's value; without a default, a key that is missing is refused."""
        if self._left.get(key) is None:
            self._left.pop(key, None)
            if default is None:
                raise ModelError(self.path, f"{self.place}.{key} is missing")
            return default
        return self._left.pop(key)

    def whole(self, key: str, default: int | None = None, *, least: int = 1, most: int = MOST) -> int:
        """A whole number from `least` to `most`."""
        return self._whole(key, self.take(key, default), least, most)

    def wholes(self, key: str, default: list[int] | None = None, *, fewest: int = 1) -> list[int]:
        """A list of at least `fewest` of them, one a level at most."""
        values = self.take(key, default)
        if not isinstance(values, list) or not fewest <= len(values) <= LEVELS:
            raise self._wrong(key, values, f"a list of {fewest} to {LEVELS} whole numbers")
        return [self._whole(f"{key}[{i}]", value, 1, MOST) for i, value in enumerate(values)]

    def number(self, key: str, default: float | None = None, *, least: float = 0.0, most: float = 1e6) -> float:
        """A number from `least` to `most`; YAML reads one such as 1e-4, without a point, as text."""
        value = self.take(key, default)
        try:
            found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            found = None
        if found is None or not least <= found <= most:
            raise self._wrong(key, value, f"a number from {least:g} to {most:g}")
        return found

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def optional(self, key: str) -> Any:
        return self._left.pop(key, None)

    def skip(self, *keys: str) -> None:
        """Keys that matter to training or to the machine that it ran on alone."""
        for key in keys:
            self._left.pop(key, None)

    def only(self, key: str, *allowed: Any) -> None:
        """A key that may be absent or have one of these values."""
        value = self._left.pop(key, allowed[0])
        if value not in allowed:
            raise self.unsupported(key, value)

    def unsupported(self, key: str, value: Any) -> ModelError:
        return ModelError(self.path, f"{self.place}.{key} = {shown(value)} is not supported")

    def end(self) -> None:
        if self._left:
            unknown = ", ".join(sorted(shown(key).strip("'") for key in self._left))
            raise ModelError(self.path, f"{self.place} has unknown keys: {unknown}")

    def _whole(self, key: str, value: Any, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> ModelError:
        return ModelError(self.path, f"{self.place}.{key} = {shown(value)} must be {wanted}")


def params_of(path: Path, place: str, node: Any, targets: tuple[str, ...]) -> Reader:
    """The parameters of a node whose target is one of `targets`. Raises ModelError for another one."""
    target = node.get("target") if isinstance(node, dict) else node
    if not isinstance(target, str) or target not in targets:
        raise ModelError(path, f"{place}.target = {shown(target)} is not supported")
    return Reader(path, place, (node.get("params") if isinstance(node, dict) else None) or {})
