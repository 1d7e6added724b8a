"""Our parameter names, which are diffusers', in terms of the research repositories' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm_core.networks.autoencoder import AutoencoderConfig
from ldm_core.networks.unet_config import UNetConfig

Prefixes = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one of our parameters comes from: a key of theirs, and what is taken of that tensor."""

    key: str
    take: Callable[[Tensor], Tensor] | None = None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.take is None else self.take(tensor)


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
FIRST_STAGE_PARTS = {"conv_shortcut": "nin_shortcut", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v"}
BERT_PARTS = {
    "self_attn_layer_norm": "{a}.0", "self_attn.q_proj": "{a}.1.to_q", "self_attn.k_proj": "{a}.1.to_k",
    "self_attn.v_proj": "{a}.1.to_v", "self_attn.out_proj": "{a}.1.to_out", "final_layer_norm": "{f}.0",
    "fc1": "{f}.1.net.0.0", "fc2": "{f}.1.net.2",
}  # fmt: skip
BERT = {
    "model.embed_tokens": "token_emb", "model.embed_positions": "pos_emb.emb", "model.layer_norm": "norm",
}  # fmt: skip
OPEN_CLIP_PARTS = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def unet_source(config: UNetConfig) -> Callable[[str], Source]:
    """The source of each parameter of a U-Net, below `model.diffusion_model.`."""
    table = dict(_unet_prefixes(config))
    levels = {name: _level_of(name, len(config.block_out_channels)) for name in table}

    def source(name: str) -> Source:
        prefix = max((p for p in table if name.startswith(p + ".")), key=len)
        theirs, rest = table[prefix], name.removeprefix(prefix + ".")
        if ".attentions." in prefix:
            kind = "cross" if config.mid_attention == "cross" else "self"
            return (
                _attention(theirs, rest, config.heads(kind, levels[prefix]))
                if kind == "self"
                else Source(f"{theirs}.{rest}")
            )
        part, _, parameter = rest.partition(".")
        if part in RESNET and _is_resnet(prefix):
            return Source(f"{theirs}.{RESNET[part]}.{parameter}")
        return Source(f"{theirs}.{rest}")

    return source


def _unet_prefixes(config: UNetConfig) -> Prefixes:
    """Pairs of prefixes, ours and theirs: theirs are numbered through, ours by level."""
    last = len(config.block_out_channels) - 1
    yield from (
        ("conv_in", "input_blocks.0.0"), ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"), ("class_embedding", "label_emb"), ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"), ("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    )  # fmt: skip
    number = 1
    for level in range(last + 1):
        for block in range(config.layers(level)):
            yield f"down_blocks.{level}.resnets.{block}", f"input_blocks.{number}.0"
            yield f"down_blocks.{level}.attentions.{block}", f"input_blocks.{number}.1"
            number += 1
        if level < last:
            ours = f"down_blocks.{level}.downsamplers.0"
            yield (ours, f"input_blocks.{number}.0") if config.down_resnet(level) else (
                f"{ours}.conv", f"input_blocks.{number}.0.op",
            )  # fmt: skip
            number += 1
    number = 0
    for level in range(last + 1):
        for block in range(config.layers(last - level) + 1):
            yield f"up_blocks.{level}.resnets.{block}", f"output_blocks.{number}.0"
            yield f"up_blocks.{level}.attentions.{block}", f"output_blocks.{number}.1"
            number += 1
        if level < last:
            place = 2 if config.up_attention(level) else 1
            yield f"up_blocks.{level}.upsamplers.0", f"output_blocks.{number - 1}.{place}"


def _is_resnet(prefix: str) -> bool:
    return bool(re.search(r"(resnets|downsamplers|upsamplers)\.\d+$", prefix))


def _level_of(prefix: str, levels: int) -> int:
    """Which entry of `block_out_channels` a prefix belongs to."""
    block = re.match(r"(down|up)_blocks\.(\d+)\.", prefix)
    if block is None:
        return levels - 1
    return int(block[2]) if block[1] == "down" else levels - 1 - int(block[2])


def _attention(theirs: str, rest: str, heads: int) -> Source:
    """The U-Net's plain attention: one 1-D convolution for q, k and v, whose rows are grouped by head first."""
    part, _, parameter = rest.rpartition(".")
    if part in {"to_q", "to_k", "to_v"}:
        which = ("to_q", "to_k", "to_v").index(part)
        return Source(f"{theirs}.qkv.{parameter}", lambda x: _of_heads(x, heads, which))
    if part == "to_out.0":
        return Source(f"{theirs}.proj_out.{parameter}", _flat)
    return Source(f"{theirs}.norm.{parameter}")


def _of_heads(x: Tensor, heads: int, which: int) -> Tensor:
    """(3·C, C, 1) or (3·C,) → (C, C) or (C,)."""
    flat = _flat(x)
    return flat.unflatten(0, (heads, 3, -1))[:, which].flatten(0, 1)


def _flat(x: Tensor) -> Tensor:
    """Without the sizes of a convolution of one position."""
    return x.flatten(1) if x.ndim > 1 else x


def first_stage_source(config: AutoencoderConfig) -> Callable[[str], Source]:
    """The source of each parameter of an autoencoder."""
    last = len(config.block_out_channels) - 1

    def source(name: str) -> Source:
        level = re.match(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
        if level is not None:
            half, way, number, kind, index, rest = level.groups()
            theirs = int(number) if way == "down" else last - int(number)
            start = f"{half}.{way}.{theirs}"
            if kind in {"downsamplers", "upsamplers"}:
                return Source(f"{start}.{kind.removesuffix('rs')}.{rest}")
            return _first_stage_part(f"{start}.{'block' if kind == 'resnets' else 'attn'}.{index}", rest)
        middle = re.match(r"(encoder|decoder)\.mid_block\.(\w+)\.(\d+)\.(.*)", name)
        if middle is not None:
            half, kind, index, rest = middle.groups()
            block = "block" if kind == "resnets" else "attn"
            return _first_stage_part(f"{half}.mid.{block}_{int(index) + 1}", rest)
        return Source(name.replace("conv_norm_out", "norm_out"))

    return source


def _first_stage_part(theirs: str, rest: str) -> Source:
    part, _, parameter = rest.rpartition(".")
    if part in {"to_q", "to_k", "to_v", "to_out.0"}:
        name = {"to_out.0": "proj_out"}.get(part) or FIRST_STAGE_PARTS[part]
        return Source(f"{theirs}.{name}.{parameter}", _flat)
    return Source(f"{theirs}.{FIRST_STAGE_PARTS.get(part, part)}.{parameter}")


def bert_source(name: str) -> Source:
    """The source of each parameter of the BERT-like transformer: they number attention and feed-forward through."""
    layer = re.match(r"model\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
    if layer is not None:
        number, part, parameter = int(layer[1]), layer[2], layer[3]
        theirs = BERT_PARTS[part].format(a=2 * number, f=2 * number + 1)
        return Source(f"attn_layers.layers.{theirs}.{parameter}")
    part, _, parameter = name.rpartition(".")
    return Source(f"{BERT.get(part, part)}.{parameter}")


def clip_source(name: str) -> Source:
    return Source(f"text_model.{name.removeprefix('text_model.')}")


def open_clip_source(name: str) -> Source:
    """The source of each parameter of a CLIP text transformer in open_clip's names (Stable Diffusion 2)."""
    name = name.removeprefix("text_model.")
    layer = re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
    if layer is None:
        return Source(OPEN_CLIP[name])
    number, part, parameter = layer.groups()
    start = f"transformer.resblocks.{number}"
    if part in {f"self_attn.{x}_proj" for x in "qkv"}:
        which = "qkv".index(part[len("self_attn.")])
        return Source(f"{start}.attn.in_proj_{parameter}", lambda x: x.chunk(3)[which])
    return Source(f"{start}.{OPEN_CLIP_PARTS[part]}.{parameter}")


OPEN_CLIP: Mapping[str, str] = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
