"""The passes over memory between products, as operators of torch: one kernel (or two) on CUDA, plain torch elsewhere.

`torch.ops.ldm` has them, so that whoever counts or pretends operators sees one where there is one. Plain torch computes
where there is no Triton, on cards before Ampere, and for shapes that no kernel takes; the log says so once.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.metadata import version
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

VERSION = 1  # of the kernels: increment when a change to one of them, or to its blocks, changes a bit of a result
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)  # Ampere: the oldest cards for which the kernels are compiled in tests
MAX_GROUP, MAX_WIDTH = 1024, 8192  # channels of a group, and of a token, that one program holds
MAX_ELEMENTS = 2**31  # of an image: places in an image are 32-bit numbers
ALIGNED = 16  # bytes: one access of a thread. The order of a sum may differ between compilations for other alignments

torch.library.define(
    "ldm::group_norm",
    "(Tensor x, Tensor? skip, Tensor weight, Tensor bias, int groups, float eps, Tensor? add, Tensor? scale_shift,"
    " bool silu) -> Tensor",
)
torch.library.define("ldm::layer_norm", "(Tensor x, Tensor weight, Tensor bias, float eps, Tensor? add) -> Tensor")
torch.library.define("ldm::geglu", "(Tensor x) -> Tensor")
torch.library.define("ldm::add_bias", "(Tensor x, Tensor bias, Tensor? residual) -> Tensor")
_implements = torch.library.impl


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, skip: Tensor | None = None,
    add: Tensor | None = None, scale_shift: Tensor | None = None, silu: bool = False,
) -> Tensor:  # fmt: skip
    """silu((norm([x, skip] + add) · weight + bias) · (1 + scale) + shift), channels-last (B, C, H, W).

    x and `skip` are joined along channels; `add` is (1 or B, C), `scale_shift` (B, 2 · C). Raises ValueError for
    tensors that do not fit each other.
    """
    return torch.ops.ldm.group_norm(x, skip, weight, bias, groups, eps, add, scale_shift, silu)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
    """LayerNorm(x + add) over the last dimension: (..., D), `add` (D,) → (..., D)."""
    return torch.ops.ldm.layer_norm(x, weight, bias, eps, add)


def geglu(x: Tensor) -> Tensor:
    """(..., 2 · D) → (..., D): the first half times the exact GELU of the second."""
    return torch.ops.ldm.geglu(x)


def add_bias(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """x + bias + residual in one pass: (B, C, H, W), bias (C,) → channels-last (B, C, H, W)."""
    return torch.ops.ldm.add_bias(x, bias, residual)


@cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton compiles and launches a kernel there. The log says why not. Call this before any capture."""
    try:
        if (found := torch.cuda.get_device_capability(device)) < CAPABILITY:
            raise RuntimeError(f"compute capability {found} is older than {CAPABILITY}")
        ones = torch.ones(1, 16, device=device)
        _launches().layer_norm(ones, torch.empty_like(ones), ones[0], ones[0], 1e-5, None).run()
    except Exception as error:  # no Triton, no C compiler for its launcher, no place for its cache, an old card
        logger.warning("Triton does not work on %s, so plain torch computes, in more time: %s", device, error)
        return False
    return True


def fingerprint(device: torch.device) -> str:
    """On what the last bits of these operators depend there, beside torch's version."""
    return f"kernels {VERSION} by Triton {version('triton')}" if triton_works(device) else "no Triton"


@_implements("ldm::group_norm", "CompositeExplicitAutograd")
def _group_norm(
    x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, add: Tensor | None,
    scale_shift: Tensor | None, silu: bool,
) -> Tensor:  # fmt: skip
    _check_group_norm(x, skip, weight, bias, groups, add, scale_shift)
    x, skip = _channels_last(x), None if skip is None else _channels_last(skip)
    channels = len(weight)
    fits = channels // groups <= MAX_GROUP and x.shape[2] * x.shape[3] * channels < MAX_ELEMENTS
    if not x.is_meta and not _has_kernel(x, "group_norm", fits):
        return _plain_group_norm(x, skip, weight, bias, groups, eps, add, scale_shift, silu)
    y = torch.empty((len(x), channels, *x.shape[2:]), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if not x.is_meta and y.numel():
        add, scale_shift = _dense_rows(add), _dense_rows(scale_shift)
        call = _launches().GroupNormCall(x, skip, weight, bias, groups, eps, add, scale_shift, silu)
        for launch in call.launches(y):
            launch.run()
    return y


@_implements("ldm::layer_norm", "CompositeExplicitAutograd")
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, add: Tensor | None) -> Tensor:
    width = x.shape[-1]
    _require(len(weight) == len(bias) == width and (add is None or add.shape == (width,)), "layer_norm", x, weight, add)
    if not x.is_meta and not _has_kernel(x, "layer_norm", width <= MAX_WIDTH):
        return F.layer_norm(x if add is None else x + add.to(x.dtype), (width,), weight, bias, eps)
    rows = _aligned(x.contiguous()).view(-1, width)
    y = torch.empty_like(rows)
    if not x.is_meta and y.numel():
        _launches().layer_norm(rows, y, weight, bias, eps, add).run()
    return y.view(x.shape)


@_implements("ldm::geglu", "CompositeExplicitAutograd")
def _geglu(x: Tensor) -> Tensor:
    _require(x.shape[-1] % 2 == 0, "geglu", x)
    if not x.is_meta and not _has_kernel(x, "geglu"):
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)
    rows = _aligned(x.contiguous()).view(-1, x.shape[-1])
    y = rows.new_empty(len(rows), x.shape[-1] // 2)
    if not x.is_meta and y.numel():
        _launches().geglu(rows, y).run()
    return y.view(*x.shape[:-1], -1)


@_implements("ldm::add_bias", "CompositeExplicitAutograd")
def _add_bias(x: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    same = residual is None or (residual.shape, residual.dtype) == (x.shape, x.dtype)
    _require(same and bias.shape == (x.shape[1],), "add_bias", x, bias, residual)
    x = _channels_last(x)
    if not x.is_meta and not _has_kernel(x, "add_bias"):
        y = x + bias.to(x.dtype)[:, None, None]
        return y if residual is None else y + residual
    y = torch.empty_like(x)
    if not x.is_meta and y.numel():
        places, rest = _places(x), None if residual is None else _places(_channels_last(residual))
        _launches().add_bias(places, _places(y), bias, rest).run()
    return y


def _plain_group_norm(
    x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, add: Tensor | None,
    scale_shift: Tensor | None, silu: bool,
) -> Tensor:  # fmt: skip
    joined = x if skip is None else torch.cat([x, skip], dim=1)
    if add is not None:
        joined = joined + add.to(x.dtype)[:, :, None, None]
    y = F.group_norm(joined.contiguous(), groups, weight, bias, eps)  # on CPUs channels-last loses digits
    if scale_shift is not None:
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return (F.silu(y) if silu else y).contiguous(memory_format=torch.channels_last)


def _has_kernel(x: Tensor, name: str, fits: bool = True) -> bool:
    """Whether a kernel computes this; meta tensors are treated as those of a device that has them."""
    if x.is_cuda:
        works = triton_works(x.device)
    else:
        works = os.environ.get("TRITON_INTERPRET") == "1" and x.device.type == "cpu"  # Triton's interpreter, in tests
    if works and not (fits and x.dtype in DTYPES):
        _say_once(name, x.shape[1:], x.dtype)
        return False
    return works


@cache
def _say_once(name: str, shape: torch.Size, dtype: torch.dtype) -> None:
    logger.warning("no kernel takes %s of %s in %s: plain torch computes it", name, tuple(shape), dtype)


@cache
def _launches() -> ModuleType:
    from ldm_core.acceleration.cuda import launches  # here, because Triton need not be there

    return launches


def _check_group_norm(
    x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, groups: int, add: Tensor | None,
    scale_shift: Tensor | None,
) -> None:  # fmt: skip
    channels = x.shape[1] + (0 if skip is None else skip.shape[1])
    fits = len(weight) == len(bias) == channels and channels % groups == 0
    if skip is not None:
        fits &= skip.dtype == x.dtype and (len(skip), skip.shape[2:]) == (len(x), x.shape[2:])
    if add is not None:
        fits &= add.shape in {(1, channels), (len(x), channels)}
    if scale_shift is not None:
        fits &= scale_shift.shape == (len(x), 2 * channels)
    _require(fits, "group_norm", x, skip, weight, add, scale_shift)


def _require(fits: bool, name: str, *tensors: Tensor | None) -> None:
    """Raises ValueError: a kernel would read behind the end of a tensor that is too small, or on another device."""
    given = [each for each in tensors if each is not None]
    if not fits or any(each.device != given[0].device for each in given):
        said = ", ".join(f"{tuple(each.shape)} {each.dtype} on {each.device}" for each in given)
        raise ValueError(f"{name} cannot take these tensors together: {said}")


def _channels_last(x: Tensor) -> Tensor:
    return _aligned(x.contiguous(memory_format=torch.channels_last))


def _aligned(x: Tensor) -> Tensor:
    return x if x.is_meta or x.data_ptr() % ALIGNED == 0 else x.clone()


def _dense_rows(vectors: Tensor | None) -> Tensor | None:
    """Vectors (B, C), each of which lies dense."""
    return vectors if vectors is None or vectors.stride(-1) == 1 else vectors.contiguous()


def _places(x: Tensor) -> Tensor:
    """Channels-last (B, C, H, W) as the matrix (B · H · W, C) that it is in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
