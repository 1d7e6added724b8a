"""The condition encoders that a configuration can name, each with what it becomes in a model directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPTextConfig

from ldm_core.checkpoints.components import parameters
from ldm_core.checkpoints.names import Source, bert_source, clip_source, open_clip_source
from ldm_core.checkpoints.reader import Reader, Yaml, params_of, shown
from ldm_core.errors import ModelError
from ldm_core.model_directory.json_files import read_json
from ldm_core.networks.clip_config import read_clip_config
from ldm_core.networks.conditioning import ClassEmbedder, ClassEmbedderConfig, SpatialRescaler, SpatialRescalerConfig
from ldm_core.networks.masked_image import MaskStyle
from ldm_core.networks.text_transformer import TextTransformer, TextTransformerConfig
from ldm_core.weights.reading import build_or_refuse, weights_file

MODULES = "ldm.modules.encoders.modules."
IDENTITY = "torch.nn.Identity"
CLIP_MISSING = (
    "attends to CLIP embeddings, which come from a model of their own: pass --clip DIR, a folder of CLIPModel"
)
UNCONDITIONAL, FIRST_STAGE = "__is_unconditional__", "__is_first_stage__"
IMAGENET_CLASSES = 1000  # a model with one more has one that stands for "no class", with this id
# the text towers that configurations name without carrying their sizes
CLIP_VIT_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
}  # fmt: skip
OPEN_CLIP_VIT_H = {
    **CLIP_VIT_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "projection_dim": 1024, "hidden_act": "gelu", "pad_token_id": 0,
}  # fmt: skip
OPEN_CLIP_PAD = "!"
KNOWN_CLIP: Mapping[str, Mapping[str, Any]] = {"openai/clip-vit-large-patch14": CLIP_VIT_L}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionPart:
    """A component directory to write: its name, configuration, weights' names and sources, and the tokenizer's name.

    `prefix` is where the weights lie in the checkpoint; `wanted` are the parameters, on no device.
    """

    folder: str
    library: str
    class_name: str
    config: Mapping[str, Any]
    wanted: Mapping[str, Tensor] | None = None
    source: Callable[[str], Source] | None = None
    prefix: str = ""
    tokenizer: str | None = None
    pad: str | None = None  # where it is not the tokenizer's own: open_clip pads with id 0, which is "!"
    extra: tuple[str, ...] = ()  # further tensors to carry along, where there are any
    weights: Path | None = None  # the file that has them, where it is not the checkpoint
    width: int | None = None  # of what it gives to attend to, where the checkpoint's own weights do not tell


def read_condition(path: Path, node: Any) -> ConditionPart | None:
    """The condition encoder of `cond_stage_config`; None for an unconditional model. Raises ModelError."""
    if node == UNCONDITIONAL or (isinstance(node, dict) and node.get("target") == IDENTITY):
        return None
    if node == FIRST_STAGE:  # inpainting_big: the masked image's latents, then the mask, in [-1, 1]
        style = MaskStyle(mask_first=False, mask_low=-1.0, fill=-1.0, scaled=False)
        return ConditionPart(folder="condition", library="ldm_core", class_name="MaskedPicture", config=style.to_json())
    target = node.get("target") if isinstance(node, dict) else node
    name = str(target).removeprefix(MODULES)
    if name not in READERS:
        raise ModelError(path, f"cond_stage_config.target = {shown(target)} is not supported")
    return READERS[name](path, params_of(path, "cond_stage_config", node, (str(target),)))


def clip_condition(path: Path, node: Any, key: str | None, clip: Path | None) -> ConditionPart | None:
    """The CLIP whose embeddings a retrieval-augmented model attends to; None for every other model.

    Its configuration has an identity in place of an encoder, as that of super-resolution has, and cross-attention as
    its `conditioning_key`. Raises ModelError.
    """
    attends = key == "crossattn" and isinstance(node, dict) and node.get("target") == IDENTITY
    if attends != (clip is not None):
        raise ModelError(path, CLIP_MISSING if attends else "asks for no CLIP embeddings; leave --clip out")
    if clip is None:
        return None
    from transformers import CLIPModel  # here, as it takes seconds that no other model needs to wait for

    config = read_clip_config(clip, CLIPConfig)
    with torch.device("meta"):
        network = build_or_refuse(lambda: CLIPModel(config), weights_file(clip))
    return ConditionPart(
        folder="condition", library="transformers", class_name="CLIPModel",
        config={**config.to_dict(), "architectures": ["CLIPModel"]}, wanted=parameters(network), source=Source,
        tokenizer=str(clip.resolve()), weights=weights_file(clip), width=config.projection_dim,
    )  # fmt: skip


def _class(path: Path, read: Reader) -> ConditionPart:
    read.skip("key")
    classes = read.whole("n_classes", 1000, most=2**20)
    config = ClassEmbedderConfig(
        n_classes=classes,
        embed_dim=read.whole("embed_dim"),
        unconditional_class=IMAGENET_CLASSES if classes == IMAGENET_CLASSES + 1 else None,
    )
    read.end()
    with torch.device("meta"):
        network = ClassEmbedder(config)
    return _own_part(config.to_json(), network)


def _rescaler(path: Path, read: Reader) -> ConditionPart:
    read.only("method", "bilinear")
    read.only("multiplier", 0.5)
    read.only("bias", False)
    config = SpatialRescalerConfig(
        n_stages=read.whole("n_stages", 1, least=0, most=10),
        in_channels=read.whole("in_channels", 3),
        out_channels=read.whole("out_channels"),
    )
    read.end()
    with torch.device("meta"):
        network = SpatialRescaler(config)
    return _own_part(config.to_json(), network)


def _own_part(config: Mapping[str, Any], network: nn.Module) -> ConditionPart:
    """An encoder of this library's, whose weights have the same names there and here."""
    return ConditionPart(
        folder="condition", library="ldm_core", class_name=config["_class_name"], config=config,
        wanted=parameters(network), source=Source, prefix="cond_stage_model.",
    )  # fmt: skip


def _bert(path: Path, read: Reader) -> ConditionPart:
    read.skip("device", "embedding_dropout")
    width, tokens = read.whole("n_embed", most=2**14), read.whole("max_seq_len", 77, least=2)
    tokenized = read.flag("use_tokenizer", True)
    config = TextTransformerConfig(
        vocab_size=read.whole("vocab_size", 30522, least=2, most=2**20),
        max_position_embeddings=tokens,
        encoder_layers=read.whole("n_layer", most=256),
        encoder_ffn_dim=4 * width,
        d_model=width,
    )
    read.end()
    with torch.device("meta"):
        network = TextTransformer(config)
    common: dict[str, Any] = {
        "wanted": parameters(network), "source": bert_source, "prefix": "cond_stage_model.transformer.",
        # the head that predicts words: ours does without, diffusers' class has it
        "extra": ("to_logits.weight", "to_logits.bias"),
    }  # fmt: skip
    if not tokenized:
        layout = {**config.to_json(), "_class_name": "LayoutEncoder"}
        return ConditionPart(
            folder="condition", library="ldm_core", class_name="LayoutEncoder", config=layout, **common
        )
    return ConditionPart(
        folder="bert", library="latent_diffusion", class_name="LDMBertModel", config=config.to_json(),
        tokenizer="bert-base-uncased", **common,
    )  # fmt: skip


def _clip(path: Path, read: Reader) -> ConditionPart:
    read.skip("device", "max_length", "freeze")
    version = read.take("version", "openai/clip-vit-large-patch14")
    if not isinstance(version, str):
        raise read.unsupported("version", version)
    read.end()
    beside = path.parent / version / "config.json"
    if beside.exists():
        read_clip_config(beside.parent, CLIPTextConfig)
    sizes = _text_sizes(read_json(beside)) if beside.exists() else KNOWN_CLIP.get(version)
    if sizes is None:
        raise ModelError(path, f"cond_stage_config.version = {version!r} is neither a folder beside it nor known")
    return _clip_part(sizes, clip_source, "cond_stage_model.transformer.", version)


def _text_sizes(config: Yaml) -> Yaml:
    """Those of a text model, which the configuration of a whole CLIP has below a key."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def _open_clip(path: Path, read: Reader) -> ConditionPart:
    read.skip("device", "freeze")
    read.only("arch", "ViT-H-14")
    read.only("version", "laion2b_s32b_b79k")
    read.only("max_length", 77)
    layer = read.take("layer", "last")
    if layer not in ("last", "penultimate"):
        raise read.unsupported("layer", layer)
    read.end()
    # of the last but one layer's states, only the layers up to it are ever computed
    layers = OPEN_CLIP_VIT_H["num_hidden_layers"] - (1 if layer == "penultimate" else 0)  # type: ignore[operator]
    sizes = {**OPEN_CLIP_VIT_H, "num_hidden_layers": layers}
    tokenizer = "openai/clip-vit-large-patch14"
    return replace(_clip_part(sizes, open_clip_source, "cond_stage_model.model.", tokenizer), pad=OPEN_CLIP_PAD)


def _clip_part(sizes: Yaml, source: Callable[[str], Source], prefix: str, tokenizer: str) -> ConditionPart:
    config = CLIPTextConfig(
        **{key: value for key, value in sizes.items() if key not in {"architectures", "model_type"}}
    )
    return ConditionPart(
        folder="text_encoder", library="transformers", class_name="CLIPTextModel",
        config={"architectures": ["CLIPTextModel"], **config.to_diff_dict()},
        wanted=clip_text_parameters(config), source=source, prefix=prefix, tokenizer=tokenizer,
    )  # fmt: skip


def clip_text_parameters(config: CLIPTextConfig) -> dict[str, Tensor]:
    """The parameters of transformers' CLIPTextModel, on no device; importing the class itself takes seconds."""
    width, inner = config.hidden_size, config.intermediate_size
    linear = {f"self_attn.{x}_proj": (width, width) for x in ("k", "v", "q", "out")}
    linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    norms = ["final_layer_norm"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (config.vocab_size, width),
        "embeddings.position_embedding.weight": (config.max_position_embeddings, width),
    }
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layers.{number}"
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        for name, (outputs, inputs) in linear.items():
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = (outputs, inputs), (outputs,)
    shapes |= {f"{norm}.{name}": (width,) for norm in norms for name in ("weight", "bias")}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


READERS: Mapping[str, Callable[[Path, Reader], ConditionPart]] = {
    "ClassEmbedder": _class,
    "SpatialRescaler": _rescaler,
    "BERTEmbedder": _bert,
    "FrozenCLIPEmbedder": _clip,
    "FrozenOpenCLIPEmbedder": _open_clip,
}
