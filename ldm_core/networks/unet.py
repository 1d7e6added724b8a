"""The denoising U-Net εθ(z_t, t, τθ(y)) (paper section 3.3; diffusers' UNet2DConditionModel and UNet2DModel)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration.packed import Conv2d, Linear
from ldm_core.acceleration.recorded import Recorded
from ldm_core.latest import Latest, Weights, only_infers
from ldm_core.networks.layers import (
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialAttention,
    SpatialTransformer,
    TimestepMLP,
    Upsample,
    timestep_embedding,
)
from ldm_core.networks.unet_config import UNetConfig

KEPT = 1024  # timesteps; of Stable Diffusion 1.x they are 80 MB
Times = Mapping[nn.Module, Tensor]  # what each residual block is given for the timestep, (B, its width)
Attend = Callable[[], nn.Module] | None
TIMES = 16  # timesteps are embedded so many at once, whatever rows there are: few rows are added up in another order


class Level(nn.Module):
    """One resolution, on the way down or up: residual blocks, each followed by attention where the level attends."""

    def __init__(self, resnets: Iterable[nn.Module], attend: Attend) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = None if attend is None else nn.ModuleList(attend() for _ in self.resnets)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def block(self, index: int, x: Tensor, times: Times, context: Tensor | None) -> Tensor:
        x = self.resnets[index](x, times[self.resnets[index]])
        return x if self.attentions is None else self.attentions[index](x, context)


class MidBlock(nn.Module):
    def __init__(self, resnets: Iterable[nn.Module], attend: Attend) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList([] if attend is None else [attend()])

    def forward(self, x: Tensor, times: Times, context: Tensor | None) -> Tensor:
        x = self.resnets[0](x, times[self.resnets[0]])
        for attention in self.attentions:
            x = attention(x, context)
        return self.resnets[1](x, times[self.resnets[1]])


class UNet(nn.Module):
    """Predicts ε (or v) from noisy latents, one timestep and one condition a row."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        last = len(widths) - 1

        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], config.time_dim)
        classes = config.num_class_embeds
        self.class_embedding = nn.Embedding(classes, config.time_dim) if classes else None

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            ins = [skips[-1], *[width] * (config.layers(i) - 1)]
            level = Level([self._resnet(n, width) for n in ins], self._attend(config.down_attention(i), i))
            skips += [width] * config.layers(i)
            if i < last:
                resnet = config.down_resnet(i)
                down = self._resnet(width, width, "down") if resnet else Downsample(width, symmetric=True)
                level.downsamplers = nn.ModuleList([down])
                skips.append(width)
            self.down_blocks.append(level)

        middle = [self._resnet(widths[-1], widths[-1]) for _ in range(2)]
        self.mid_block = MidBlock(middle, self._attend(config.mid_attention, last, mid=True))

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for i, width in enumerate(reversed(widths)):
            ins = []
            for _ in range(config.layers(last - i) + 1):
                ins.append(below + skips.pop())
                below = width
            level = Level([self._resnet(n, width) for n in ins], self._attend(config.up_attention(i), last - i))
            if i < last:
                up = self._resnet(width, width, "up") if config.up_resnet(i) else Upsample(width)
                level.upsamplers = nn.ModuleList([up])
            self.up_blocks.append(level)

        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)

        self._timed = [block for block in self.modules() if isinstance(block, ResnetBlock)]
        self._latest: Latest[Tensor] = Latest()
        self._recorded, self._weights = Recorded(), Weights(self)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        """(B, in_channels, H, W), (B,), (B, L, cross_attention_dim), (B,) → (B, out_channels, H, W)."""
        if x.device.type != "cpu" or not only_infers(x.device):
            times = torch.cat(self._project(self._embed(t, class_labels, x.dtype)), dim=-1)
            return self._denoise(x, times[: len(x)], context)
        weights = self._weights.state()
        labels = [None] * len(x) if class_labels is None else class_labels.tolist()
        rows = [self._time(*each, x.dtype, weights) for each in zip(t.tolist(), labels, strict=True)]
        return self._recorded(self._denoise, lambda: weights, x, torch.cat(rows), context)

    def _denoise(self, x: Tensor, projected: Tensor, context: Tensor | None) -> Tensor:
        """(B, in_channels, H, W), (B, what `_project` gives, side by side), (B, L, D) → (B, out_channels, H, W)."""
        parts = projected.split([cast("Linear", block.time_emb_proj).out_features for block in self._timed], dim=-1)
        times: Times = dict(zip(self._timed, parts, strict=True))
        h = self.conv_in(x)
        skips = [h]
        for level in cast("Iterable[Level]", self.down_blocks):
            for i in range(len(level.resnets)):
                h = level.block(i, h, times, context)
                skips.append(h)
            if level.downsamplers is not None:
                h = level.downsamplers[0](h, times.get(level.downsamplers[0]))
                skips.append(h)
        h = self.mid_block(h, times, context)
        for level in cast("Iterable[Level]", self.up_blocks):
            for i in range(len(level.resnets)):
                h = level.block(i, torch.cat([h, skips.pop()], dim=1), times, context)
            if level.upsamplers is not None:
                # the skip's own size: latents need not be a multiple of the downsampling
                size = tuple(skips[-1].shape[2:])
                h = level.upsamplers[0](h, times.get(level.upsamplers[0]), size)
        return self.conv_out(self.conv_norm_out(h, silu=True))

    def _time(self, t: float, label: int | None, dtype: torch.dtype, weights: Hashable) -> Tensor:
        """What all residual blocks are given for one timestep, side by side: (1, the sum of their widths)."""

        def computed() -> Tensor:
            labels = None if label is None else torch.tensor([label])
            parts = self._project(self._embed(torch.tensor([t], dtype=torch.float32), labels, dtype))
            return torch.cat([part[:1] for part in parts], dim=-1)

        # runs of as many steps come by the same timesteps: a step of `scenes` at two rows gains 1.04 x
        key = t, label, dtype, weights, torch.is_inference_mode_enabled()
        return self._latest.get(key, computed, KEPT)

    def _project(self, emb: Tensor) -> list[Tensor]:
        return [cast("Linear", block.time_emb_proj)(emb) for block in self._timed]

    def _embed(self, t: Tensor, class_labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(B,), (B,) → (at least B, time_dim), after its SiLU."""
        config = self.config
        t = _filled_up(t)
        wave = timestep_embedding(
            t, config.block_out_channels[0], flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )
        emb: Tensor = self.time_embedding(wave.to(dtype))
        if self.class_embedding is not None:
            assert class_labels is not None
            emb = emb + self.class_embedding(_filled_up(class_labels))
        return F.silu(emb)

    def _resnet(self, ins: int, out: int, resize: str = "") -> ResnetBlock:
        c = self.config
        return ResnetBlock(
            ins, out, groups=c.norm_num_groups, eps=c.norm_eps, time_dim=c.time_dim, resize=resize,
            scale_shift=c.scale_shift,
        )  # fmt: skip

    def _attend(self, kind: str | None, level: int, *, mid: bool = False) -> Attend:
        """What makes the attention of one level: over the context too ("cross"), over the latents alone ("self")."""
        config = self.config
        channels, heads = config.block_out_channels[level], config.heads(kind, level)
        if kind == "self":
            groups = config.mid_attention_groups if mid else config.norm_num_groups
            return lambda: SpatialAttention(channels, heads, groups=groups, eps=config.norm_eps)
        if kind == "cross":
            assert config.cross_attention_dim is not None
            context_dim, only_cross = config.cross_attention_dim, config.only_cross(level) and not mid
            return lambda: SpatialTransformer(
                channels, context_dim, heads, config.transformer_layers_per_block,
                groups=config.norm_num_groups, linear=config.use_linear_projection, only_cross=only_cross,
            )  # fmt: skip
        return None


def _filled_up(values: Tensor) -> Tensor:
    """(B,) → (a multiple of TIMES,), with zeros behind."""
    return F.pad(values, (0, -len(values) % TIMES))
