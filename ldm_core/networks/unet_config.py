"""What `unet/config.json` says: one dataclass for diffusers' UNet2DConditionModel and UNet2DModel. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from ldm_core.errors import ModelError
from ldm_core.model_directory.config_reader import read_config

Count = Annotated[int, Field(ge=1, le=2**16)]
Blocks = Annotated[int, Field(ge=1, le=64)]
MAX_LEVELS = 10
Names = Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_LEVELS)]
CONDITIONAL, UNCONDITIONAL = "UNet2DConditionModel", "UNet2DModel"

# block type → the attention of its level, and whether it changes size by a residual block
BLOCKS: Mapping[str, tuple[str | None, bool]] = {
    "DownBlock2D": (None, False),
    "UpBlock2D": (None, False),
    "ResnetDownsampleBlock2D": (None, True),
    "ResnetUpsampleBlock2D": (None, True),
    "AttnDownBlock2D": ("self", False),
    "AttnUpBlock2D": ("self", False),
    "CrossAttnDownBlock2D": ("cross", False),
    "CrossAttnUpBlock2D": ("cross", False),
}
TYPES = {
    CONDITIONAL: [name for name in BLOCKS if BLOCKS[name][0] != "self" and not BLOCKS[name][1]],
    UNCONDITIONAL: [name for name in BLOCKS if BLOCKS[name][0] != "cross"],
}
# fields that only one of the two classes has, and its defaults for all others where they differ from ours
ONLY = {
    CONDITIONAL: (
        "transformer_layers_per_block", "only_cross_attention", "cross_attention_dim", "use_linear_projection",
    ),
    UNCONDITIONAL: ("downsample_type", "upsample_type", "attn_norm_num_groups"),
}  # fmt: skip
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    CONDITIONAL: {},
    UNCONDITIONAL: {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (224, 448, 672, 896),
        "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
        "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "cross_attention_dim": None,
    },
}
# fields that have one entry a level, unless they are one for all
LEVELWISE = (
    "down_block_types", "up_block_types", "layers_per_block", "attention_head_dim", "only_cross_attention",
)  # fmt: skip
MID = {CONDITIONAL: ("UNetMidBlock2DCrossAttn",), UNCONDITIONAL: ("UNetMidBlock2D",)}

# what other U-Nets of the family vary and this one has in one way only
FIXED = {
    "center_input_sample": (False,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1, 1.0),
    "dropout": (0.0, 0),
    "act_fn": ("silu",),
    "class_embed_type": (None,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    # of UNet2DModel
    "add_attention": (True,),
    "num_train_timesteps": (None,),
    # of UNet2DConditionModel
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "upcast_attention": (False, True, None),  # a matter of half precision: scores are accumulated in float32 anyway
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1, 1.0),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "projection_class_embeddings_input_dim": (None,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "addition_embed_type_num_heads": (64,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The fields that this network honours; tuples have one entry a level, in the order of `down_block_types`.

    `attention_head_dim` means, as in diffusers, the *number* of heads where a level attends to a context, and the
    width of one head where it attends to itself alone. A tuple of the latter is our extension: diffusers has one.
    """

    in_channels: Count = 4
    out_channels: Count = 4
    sample_size: Count | None = None
    block_out_channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (
        320, 640, 1280, 1280,
    )  # fmt: skip
    down_block_types: Names = (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    mid_block_type: str = "UNetMidBlock2DCrossAttn"
    up_block_types: Names = ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)
    layers_per_block: Blocks | tuple[Blocks, ...] = 2
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    resnet_time_scale_shift: str = "default"
    transformer_layers_per_block: Blocks = 1
    attention_head_dim: Count | tuple[Count, ...] | None = 8
    only_cross_attention: bool | tuple[bool, ...] = False
    cross_attention_dim: Count | None = 1280
    norm_num_groups: Count = 32
    attn_norm_num_groups: Count | None = None
    norm_eps: Annotated[float, Field(ge=0, le=1)] = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Field(ge=0, le=1)] = 0
    use_linear_projection: bool = False
    num_class_embeds: Annotated[int, Field(ge=1, le=2**20)] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: str = "unet/config.json") -> UNetConfig:
        """Raises ModelError, naming the key, for what this network does not do."""
        kind = _class_of(data)
        choices = {
            **dict.fromkeys(("down_block_types", "up_block_types"), TYPES[kind]),
            "mid_block_type": MID[kind],
            **dict.fromkeys(("downsample_type", "upsample_type"), ("conv", "resnet")),
            "resnet_time_scale_shift": ("default", "scale_shift"),
        }
        return read_config(cls, {**DEFAULTS[kind], **data}, path, fixed=FIXED, choices=choices).checked(path)

    def checked(self, path: str) -> UNetConfig:
        """This configuration, if its fields fit each other. Raises ModelError."""
        if (problem := next(self._problems(), None)) is not None:
            raise ModelError(path, problem)
        return self

    def _problems(self) -> Iterator[str]:
        widths, levels = self.block_out_channels, len(self.block_out_channels)
        for key in LEVELWISE:
            if isinstance(value := getattr(self, key), tuple) and len(value) != levels:
                yield f"{key} has {len(value)} entries, block_out_channels has {levels}"
        for groups in (self.norm_num_groups, self.attn_norm_num_groups or 1):
            if any(width % groups for width in widths):
                yield f"block_out_channels = {widths} are not all multiples of {groups}, the groups of their norms"
        if widths[0] % 2 or widths[0] < 4:
            yield f"block_out_channels[0] = {widths[0]} must be even and at least 4, as the waves of a timestep are"
        places = [(self.down_attention(i), i) for i in range(levels)] + [(self.mid_attention, levels - 1)]
        places += [(self.up_attention(i), levels - 1 - i) for i in range(levels)]
        for kind, level in places:
            if kind == "cross" and self.cross_attention_dim is None:
                yield "cross_attention_dim is missing: its blocks attend to a context"
            number = self._head_number(level)
            if kind is not None and number and widths[level] % number:
                yield f"attention_head_dim = {number} does not divide the {widths[level]} channels of level {level}"

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads, for the diffusers class that it names."""
        kind, other = (CONDITIONAL, UNCONDITIONAL) if self.mid_attention == "cross" else (UNCONDITIONAL, CONDITIONAL)
        return {"_class_name": kind, **{k: v for k, v in asdict(self).items() if k not in ONLY[other]}}

    @property
    def time_dim(self) -> int:
        """Width of the embedded timestep."""
        return 4 * self.block_out_channels[0]

    @property
    def mid_attention(self) -> str:
        return "cross" if self.mid_block_type == "UNetMidBlock2DCrossAttn" else "self"

    def down_attention(self, block: int) -> str | None:
        return BLOCKS[self.down_block_types[block]][0]

    def up_attention(self, block: int) -> str | None:
        return BLOCKS[self.up_block_types[block]][0]

    def down_resnet(self, block: int) -> bool:
        """Whether the block halves by a residual block instead of a convolution."""
        attention, resnet = BLOCKS[self.down_block_types[block]]
        return resnet or (attention == "self" and self.downsample_type == "resnet")

    def up_resnet(self, block: int) -> bool:
        attention, resnet = BLOCKS[self.up_block_types[block]]
        return resnet or (attention == "self" and self.upsample_type == "resnet")

    def heads(self, kind: str | None, level: int) -> int:
        """How many heads attend at a level."""
        number = self._head_number(level)
        if kind == "self":
            width = self.block_out_channels[level]
            return width // (number or width)
        return number or 1

    def _head_number(self, level: int) -> int | None:
        given = self.attention_head_dim
        return given[level] if isinstance(given, tuple) else given

    def layers(self, level: int) -> int:
        """How many residual blocks a level has on the way down."""
        given = self.layers_per_block
        return given[level] if isinstance(given, tuple) else given

    @property
    def scale_shift(self) -> bool:
        """Whether the timestep scales and shifts after a residual block's second norm instead of being added before."""
        return self.resnet_time_scale_shift == "scale_shift"

    @property
    def mid_attention_groups(self) -> int | None:
        """Groups of the norm before the middle block's self-attention; None: diffusers' class has no norm there."""
        return self.attn_norm_num_groups or (None if self.scale_shift else self.norm_num_groups)

    def only_cross(self, level: int) -> bool:
        """Whether the first of a level's two attentions looks at the context too; the middle block's never does."""
        given = self.only_cross_attention
        return given[level] if isinstance(given, tuple) else given


def _class_of(data: Mapping[str, Any]) -> str:
    """Peers' configurations may come without a class name; only one of the two knows cross-attention."""
    named = data.get("_class_name")
    if isinstance(named, str) and named in TYPES:
        return named
    return CONDITIONAL if "cross_attention_dim" in data or "down_block_types" not in data else UNCONDITIONAL
