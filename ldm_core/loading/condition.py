"""Builds a condition encoder from its component directory, by the class that its configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import BertTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ldm_core.errors import ModelError
from ldm_core.loading.tokenizer import TokenizerClass, read_tokenizer
from ldm_core.model_directory.components import find_components
from ldm_core.model_directory.json_files import read_json
from ldm_core.networks.clip_config import read_clip_config
from ldm_core.networks.clip_embedder import ClipEmbedder
from ldm_core.networks.conditioning import (
    ClassEmbedder,
    ClassEmbedderConfig,
    Condition,
    LayoutEncoder,
    SpatialRescaler,
    SpatialRescalerConfig,
    TextEncoder,
    Tokenizer,
)
from ldm_core.networks.masked_image import MaskedPicture, MaskStyle
from ldm_core.networks.text_transformer import TextTransformer, TextTransformerConfig
from ldm_core.weights.placing import MAIN_MEMORY, Place
from ldm_core.weights.reading import build_strictly, read_weights, weights_file


def build_condition(path: Path, place: Place = MAIN_MEMORY) -> Condition:
    """Raises ModelError naming file and key."""
    return BUILDERS[find_components(path.parent).condition_class or ""](path, place)


def _clip_text(path: Path, place: Place) -> TextEncoder:
    config = read_clip_config(path, CLIPTextConfig)
    # written by transformers 4 with this prefix, by transformers 5 without
    state = {key.removeprefix("text_model."): value for key, value in read_weights(path).items()}
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    transformer = build_strictly(lambda: CLIPTextModel(config), state, weights_file(path), place)
    tokenizer = _tokenizer(path.parent / "tokenizer", CLIPTokenizer, transformer.config.to_dict())
    return TextEncoder(tokenizer, transformer, transformer.config.max_position_embeddings)


def _clip_embedder(path: Path, place: Place) -> ClipEmbedder:
    config = read_clip_config(path, CLIPConfig)
    clip = build_strictly(lambda: CLIPModel(config), read_weights(path), weights_file(path), place)
    tokenizer = _tokenizer(path.parent / "tokenizer", CLIPTokenizer, clip.config.to_dict()["text_config"])
    return ClipEmbedder(tokenizer, clip)


def _bert_text(path: Path, place: Place) -> TextEncoder:
    transformer = _text_transformer(path, place)
    tokenizer = _tokenizer(path.parent / "tokenizer", BertTokenizer, transformer.config.to_json())
    return TextEncoder(tokenizer, transformer, transformer.config.max_position_embeddings)


def _layout(path: Path, place: Place) -> LayoutEncoder:
    return LayoutEncoder(_text_transformer(path, place))


def _text_transformer(path: Path, place: Place) -> TextTransformer:
    config = TextTransformerConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    state = {key: value for key, value in read_weights(path).items() if not key.startswith("to_logits.")}
    return build_strictly(lambda: TextTransformer(config), state, weights_file(path), place)


def _class_embedder(path: Path, place: Place) -> ClassEmbedder:
    config = ClassEmbedderConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    return build_strictly(lambda: ClassEmbedder(config), read_weights(path), weights_file(path), place)


def _rescaler(path: Path, place: Place) -> SpatialRescaler:
    config = SpatialRescalerConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    return build_strictly(lambda: SpatialRescaler(config), read_weights(path), weights_file(path), place)


def _masked_image(path: Path, place: Place) -> MaskedPicture:
    return MaskedPicture(MaskStyle.from_json(read_json(path / "config.json"), str(path / "config.json")))


BUILDERS: Mapping[str, Callable[[Path, Place], Condition]] = {
    "CLIPTextModel": _clip_text,
    "CLIPModel": _clip_embedder,
    "LDMBertModel": _bert_text,
    "LayoutEncoder": _layout,
    "ClassEmbedder": _class_embedder,
    "SpatialRescaler": _rescaler,
    "MaskedPicture": _masked_image,
}


def _tokenizer(path: Path, kind: TokenizerClass, text_config: Mapping[str, Any]) -> Tokenizer:
    if not path.is_dir():
        raise ModelError(path, "is missing")
    return cast("Tokenizer", read_tokenizer(path, kind, text_config))
