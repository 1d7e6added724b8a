"""The package's own library (ldm_core/acceleration/*.c): whether it is there, and calling its functions.

It is compiled as the package is installed, where there is a C compiler; elsewhere, in training and on GPUs, torch
computes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Address, Count = ctypes.c_void_p, ctypes.c_int64
# As in kernels.c. Increment when any result bit or kernel argument changes: then running jobs do not resume on a worker
# of another version, and kernels of an earlier installation are not called.
VERSION = 6
LANES = 16  # floats that the kernels process at a time, as in kernels.h
DTYPES = (torch.float32, torch.bfloat16)
STRICT, ALL = 0x10000, -1  # MKL_CBWR_STRICT and MKL_CBWR_ALL of mkl.h
FUNCTIONS = ("group_norm", "layer_norm", "geglu", "to_tiles", "from_tiles", "transform")


@dataclass(frozen=True, slots=True)
class KernelCall:
    """A function of *.c and its one argument, a struct with these values; tensors stand for their addresses."""

    function: str
    struct: type[ctypes.Structure]
    values: tuple[Any, ...]

    def replay(self, move: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        """The same call over tensors that have moved."""
        moved = _with(self.values, move)
        function, argument = getattr(library(), self.function), self.struct(*_with(moved, Tensor.data_ptr))
        return partial(_run, function, ctypes.byref(argument), moved)


class _Listening(threading.local):
    on_call: Callable[[KernelCall], None] | None = None


_listening = _Listening()


@contextmanager
def listener(on_call: Callable[[KernelCall], None]) -> Iterator[None]:
    """Calls `on_call` with each kernel call of this thread while the block runs."""
    _listening.on_call = on_call
    try:
        yield
    finally:
        _listening.on_call = None


def run(function: str, struct: type[ctypes.Structure], *values: Any) -> None:
    """Calls one. Raises MemoryError where it found none, ValueError for tensors of another device."""
    if not all(value.is_cpu for value in values if isinstance(value, Tensor)):
        raise ValueError("the kernels take tensors in main memory alone")
    if _listening.on_call is not None:
        _listening.on_call(KernelCall(function, struct, values))
    _run(getattr(library(), function), ctypes.byref(struct(*_with(values, Tensor.data_ptr))), values)


def _run(function: Any, argument: Any, alive: object) -> None:
    if not function(argument):
        raise MemoryError


def _with(values: tuple[Any, ...], change: Callable[[Tensor], Any]) -> tuple[Any, ...]:
    """The values, nested as they are, with every tensor changed."""
    return tuple(
        change(value) if isinstance(value, Tensor) else _with(value, change) if isinstance(value, tuple) else value
        for value in values
    )


def present() -> bool:
    """Whether they were compiled."""
    return library() is not None


def return_freed_memory() -> None:
    """Gives what glibc's allocator holds free back to the system, which it does by itself only at its end."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


@cache
def has_fast_bfloat16() -> bool:
    """AMX multiplies bfloat16 so many times faster than float32 that a direct convolution wins.

    Measured without it, on Sapphire Rapids: its other instruction for bfloat16 has half the rate of float32's.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes convolutions of this dtype here."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def reproducible_products() -> bool:
    """Whether MKL is in its strict mode (environment.py), which it has on Intel's processors."""
    try:
        vendor = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
        mode = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so")).mkl_serv_cbwr_get(ALL)
    except (OSError, AttributeError):  # another system, or a torch that computes products without MKL
        return False
    return vendor and bool(mode & STRICT)


@cache
def library() -> Any:
    """The compiled kernels, or None where there are none."""
    found = importlib.util.find_spec("ldm_core.acceleration._kernels")
    try:
        kernels = None if found is None else _declared(ctypes.CDLL(found.origin))
    except (OSError, AttributeError) as error:  # built for another system or by an earlier version, or no OpenMP there
        logger.warning("the compiled kernels do not load: %s", error)
        kernels = None
    if kernels is None:
        logger.warning("without compiled kernels (ldm_core/acceleration/*.c), steps take a third longer on CPUs")
        return None
    return kernels


def _declared(kernels: Any) -> Any:
    """Says what the functions of *.c take. Raises AttributeError where they are others."""
    if kernels.version() != VERSION:
        raise AttributeError(f"they are version {kernels.version()}, not {VERSION}; install the package again")
    for name in FUNCTIONS:
        getattr(kernels, name).argtypes = (Address,)
    return kernels
