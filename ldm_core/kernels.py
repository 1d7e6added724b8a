"""GroupNorm with what stands around it, and GEGLU, in one pass each over the memory, where they were compiled.

torch has several operators for what one pass over the numbers can do, and its GroupNorm for channels-last memory loses
most digits where means are large, so that everything was brought from one layout into the other and back. On two cores
a step of `scenes` gains 1.10 x at two rows and 1.08 x at eight, its decoder 1.2 x. They are compiled as the package is
installed, where there is a C compiler; elsewhere, in training and on GPUs, torch computes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_core.latest import only_infers

logger = logging.getLogger(__name__)

Address, Count = ctypes.c_void_p, ctypes.c_int64
VERSION = 3  # of what networks give: another one whenever a bit changes, so that jobs under way do not go on elsewhere
LANES = 16  # channels that those of winograd.c and halves.c take at a time
DTYPES = (torch.float32, torch.bfloat16)


class _GroupNorm(ctypes.Structure):
    _fields_ = (
        *((name, Address) for name in ("x", "add", "weight", "bias", "y")),
        *((name, Count) for name in ("rows", "pixels", "channels", "groups", "bfloat16", "silu")),
        ("eps", ctypes.c_double),
    )


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, add: Tensor | None = None, silu: bool = False
) -> Tensor:
    """GroupNorm of x + add over (B, C, H, W), `add` being (B, C), and SiLU after it if asked for."""
    kernels = library() if _ours(x, weight) else None
    if kernels is None:
        if add is not None:
            x = x + add[:, :, None, None]
        # see above: on CPUs torch's kernel is not for channels-last memory
        x = F.group_norm(x.contiguous() if x.device.type == "cpu" else x, groups, weight, bias, eps)
        return F.silu(x) if silu else x
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    rows, channels, height, width = x.shape
    if add is not None:
        add = add.contiguous()
    call = _GroupNorm(
        x.data_ptr(), address(add), weight.data_ptr(), bias.data_ptr(), y.data_ptr(),
        rows, height * width, channels, groups, x.dtype == torch.bfloat16, silu, eps,
    )  # fmt: skip
    if not kernels.group_norm(ctypes.byref(call)):
        raise MemoryError
    return y


def address(tensor: Tensor | None) -> int | None:
    """Where its numbers begin; None, which is C's NULL, for none."""
    return None if tensor is None else tensor.data_ptr()


def present() -> bool:
    """Whether they were compiled."""
    return library() is not None


def geglu(x: Tensor) -> Tensor:
    """(..., 2N) → (..., N): the first half times the GELU of the second."""
    kernels = library() if _ours(x, x) else None
    if kernels is None:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)
    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    kernels.geglu(x.data_ptr(), y.data_ptr(), y.numel() // width, width, x.dtype == torch.bfloat16)
    return y


def _ours(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take them."""
    return x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in DTYPES and only_infers(x.device)


@cache
def has_fast_bfloat16() -> bool:
    """AMX multiplies bfloat16 so many times faster than float32 that a direct convolution wins.

    Measured without it, on Sapphire Rapids: its other instruction for bfloat16 has half the rate of float32's.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@cache
def library() -> Any:
    """The compiled kernels, or None where there are none."""
    found = importlib.util.find_spec("ldm_core._kernels")
    try:
        kernels = None if found is None else _declared(ctypes.CDLL(found.origin))
    except (OSError, AttributeError) as error:  # built for another system or of an earlier version, or no OpenMP there
        logger.warning("the compiled kernels do not load: %s", error)
        kernels = None
    if kernels is None:
        logger.warning("without compiled kernels (ldm_core/*.c), steps take a third longer on CPUs")
        return None
    return kernels


def _declared(kernels: Any) -> Any:
    """Says what the functions of *.c take. Raises AttributeError for one that is not there."""
    kernels.group_norm.argtypes = (ctypes.POINTER(_GroupNorm),)
    kernels.geglu.argtypes = (Address, Address, Count, Count, Count)
    kernels.half_product.argtypes = kernels.half_convolution.argtypes = (Address,)
    for function in (kernels.geglu, kernels.to_tiles, kernels.from_tiles):
        function.restype = None
    return kernels
