"""A GPU that is only pretended: real tensors in the CPU's memory that say that they lie on a CUDA device.

    with pretended_cuda() as gpu:
        model = load_model(directory, "cuda")
        with gpu.counting() as seen:
            denoise.step(model, samples, rows)
    seen.launches, seen.waits, seen.crossings

What CUDA refuses raises as it does there: tensors of two devices in one operator, numpy of a device's tensor, waits
and pageable copies inside a capture. Every crossing between host and device is kept with the line of ours that asked
for it, and every launch is counted. torch computes the numbers on the CPU, so whole jobs run and their images can be
compared.

Not seen: what CUDA's kernels compute, their memory formats and time; what a kernel outside torch does (Triton's).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_core import row_counts
from ldm_core.acceleration import pieces
from ldm_core.device import _stream
from tests.pretended_runtime import Graph, NotInCapture, Runtime, launches, tensors_of

CPU = torch.device("cpu")
OURS = ("ldm_core", "worker", "benchmarks")  # packages whose lines are named

# methods that need the numbers on the host
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__"}
# shapes that depend on numbers, and answers that are Python's: the host waits
WAITS = {"nonzero", "masked_select", "unique", "unique_consecutive", "equal", "allclose", "argwhere", "bincount"}
INDEXES = {"__getitem__", "__setitem__", "index_put_", "index_put", "index"}
# questions about tensors and devices, no operators
ABOUT = {
    "_parse_to", "_has_compatible_shallow_copy_type", "is_same_size", "requires_grad_", "is_floating_point",
    "is_complex", "is_inference", "dim", "size", "stride", "numel", "is_contiguous", "data_ptr", "untyped_storage",
    "__len__", "register_hook", "record_stream",
}  # fmt: skip


class DeviceMix(RuntimeError):
    """What CUDA says when one operator gets tensors of two devices."""


class OnGpu(Tensor):
    """A tensor in the CPU's memory that says that it is on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.__dict__.get("_pretended", torch.device("cuda", 0))

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def is_pinned(self, *_: Any) -> bool:
        return False

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("nothing here pickles a tensor of a device")


@dataclass(frozen=True)
class Crossing:
    """Numbers that go between host and device, or a host that waits for the device."""

    kind: str  # "to device", "to host", "between devices", "wait"; "paced": waits for an event
    what: str  # torch's function
    where: str  # file:line of ours
    numbers: int
    blocks: bool = True  # a copy of pageable memory returns only when all work before it on the stream is done
    stack: tuple[str, ...] = field(default=(), compare=False)


@dataclass
class Counts:
    """What a block of code asked of the device."""

    crossings: list[Crossing] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)  # names of operators; one entry for a graph's replay

    @property
    def waits(self) -> list[Crossing]:
        """The crossings at which the host waits until the device has nothing left to do."""
        return [each for each in self.crossings if each.blocks and each.kind != "paced"]


class PretendedCuda(TorchFunctionMode):
    """The mode of one or more devices. `runtime` is what takes the place of torch.cuda."""

    def __init__(self, devices: int = 1, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__()
        self.crossings: list[Crossing] = []
        self.runtime = Runtime(devices, capability, self._cross)
        self._devices = devices
        self._launches = _Launches(self.runtime)

    # -- what a test asks for

    @property
    def graphs(self) -> list[Graph]:
        """The graphs that were captured so far."""
        return self.runtime.graphs

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Counts what all threads do in this block; the counts are complete when the block has ended."""
        crossings, launched, seen = len(self.crossings), len(self.runtime.launched), Counts()
        yield seen
        seen.crossings = self.crossings[crossings:]
        seen.launches = self.runtime.launched[launched:]

    def capture(self) -> Any:
        """A region that is captured, as a context: waits and pageable copies raise NotInCapture."""
        return self.runtime.capture()

    def lose(self, error: Exception | str = "CUDA error: an illegal memory access was encountered") -> None:
        """From now on every use of a device raises, as after a sticky error."""
        self.runtime.lost = RuntimeError(error) if isinstance(error, str) else error

    # -- the mode

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in {"__get__", "__set__"}:
            return self._attribute(func, name, args, kwargs)
        if name in ABOUT:
            return None if name == "record_stream" else func(*args, **kwargs)
        if name in {"pin_memory", "is_pinned"} and args:
            return self._pinned(name, args[0])
        if name in {"to", "cuda", "cpu"} and args and isinstance(args[0], Tensor):
            return self._moved(name, args, kwargs)
        if name == "copy_" and args[0].device != args[1].device:
            return self._copied(*args, **kwargs)
        return self._called(func, name, args, kwargs)

    def _called(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any other function: its result is where its tensors are, or where a factory was told."""
        tensors = tensors_of((args, kwargs))
        on_gpu = any(isinstance(each, OnGpu) for each in tensors)
        if not on_gpu and not self.runtime.pinned.in_use and not kwargs.keys() & {"device", "pin_memory"}:
            return func(*args, **kwargs)  # most of loading
        told = self._told(name, kwargs, tensors)
        pin = kwargs.pop("pin_memory", False)
        if on_gpu:
            self._read(name, tensors[0])
        if name in INDEXES:
            tensors = self._indexed(name, args)
        device = self._common(name, tensors, told)
        self._check_generator(device, kwargs.get("generator"))
        if device is None:
            self._check_races(name, tensors, kwargs.get("out"))
        with self._launches.on(device):
            result = func(*_plain(args), **_plain(kwargs))
        in_place = name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Tensor)
        if in_place and isinstance(result, Tensor):
            return args[0]
        if kwargs.get("out") is not None:
            return kwargs["out"]
        if pin:
            return self.runtime.pinned.add(result)
        return _on(result, device) if device is not None else result

    def _attribute(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        of = args[0] if args else None
        result = func(*args, **kwargs)  # of the tensor itself: an alias has a history
        return _on(result, of.device) if name == "__get__" and isinstance(of, OnGpu) else result

    def _pinned(self, name: str, tensor: Tensor) -> Any:
        if name == "is_pinned":
            return not isinstance(tensor, OnGpu) and self.runtime.pinned.holds(tensor)
        if isinstance(tensor, OnGpu):
            raise RuntimeError(f"cannot pin '{tensor.type()}', only dense CPU tensors can be pinned")
        return tensor if self.runtime.pinned.holds(tensor) else self.runtime.pinned.add(tensor.clone())

    def _read(self, name: str, first: Tensor) -> None:
        """What of a device's tensor the host wants to know."""
        if name in {"numpy", "__array__"}:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name in READS:
            self._cross("to host", name, first.numel())
        if name in WAITS:
            self._cross("wait", name, 0)

    def _moved(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        target, options = _move(name, args, kwargs, tensor.device)
        if tensor.device == target:
            with self._launches.on(target if isinstance(tensor, OnGpu) else None):
                result = _plain(tensor).to(**options)
            return (
                tensor
                if result.data_ptr() == tensor.data_ptr() and result.dtype == tensor.dtype
                else _on(result, target)
            )
        self._check_index(target)
        free = options.pop("non_blocking", False)
        blocks = not (free and (isinstance(tensor, OnGpu) or self.runtime.pinned.holds(tensor)))
        self._cross(_kind(tensor.device, target), name, tensor.numel(), blocks=blocks)
        with self._launches.on(target, copies=True):
            result = _plain(tensor).to(**options | {"copy": True})
        if target.type == "cpu" and free:  # torch copies to fresh pinned memory then
            self.runtime.pinned.copies(self.runtime.pinned.add(result), "written", self.runtime.stream)
        elif free:
            self._copies(tensor, "read")
        return _on(result, target)

    def _copied(self, into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        host, use = (source, "read") if isinstance(into, OnGpu) else (into, "written")
        between = isinstance(into, OnGpu) and isinstance(source, OnGpu)
        blocks = not between and not (non_blocking and self.runtime.pinned.holds(host))
        self._cross(_kind(source.device, into.device), "copy_", source.numel(), blocks=blocks)
        with self._launches.on(into.device, copies=True):
            _plain(into).copy_(_plain(source))
        if not blocks and not between:
            self._copies(host, use)
        return into

    def _copies(self, buffer: Tensor, use: Any) -> None:
        """Notes that a copy between a device and this pinned buffer is under way, now or at each replay."""
        if self.runtime.graph is not None:
            self.runtime.graph.copies.append((buffer, use))
        elif self.runtime.pinned.holds(buffer):
            self.runtime.pinned.copies(buffer, use, self.runtime.stream)

    def _indexed(self, name: str, args: tuple[Any, ...]) -> list[Tensor]:
        """The tensors that must be on one device; indices from the host are copied."""
        of, index = args[0], tensors_of(args[1])
        if not isinstance(of, OnGpu) and any(isinstance(each, OnGpu) for each in index):
            raise DeviceMix("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        for each in index if isinstance(of, OnGpu) else ():
            if not isinstance(each, OnGpu) and each.dim() > 0:
                self._cross("to device", "index", each.numel())
            if each.dtype in (torch.bool, torch.uint8):
                self._cross("wait", "index by mask", 0)
        return [each for each in (of, *args[2:]) if isinstance(each, Tensor)] if name == "__setitem__" else [of]

    def _told(self, name: str, kwargs: dict[str, Any], tensors: list[Tensor]) -> torch.device | None:
        """The device that a factory is told, which the CPU must not see."""
        if kwargs.get("device") is None:
            return None
        device = _device(kwargs["device"])
        if device.type == "cuda":
            self._check_index(device)
            kwargs["device"] = CPU
            from_host = not any(isinstance(each, OnGpu) for each in tensors)
            if name in {"tensor", "as_tensor", "scalar_tensor"} and from_host:
                self._cross("to device", name, 0)
        return device

    def _check_index(self, device: torch.device) -> None:
        if device.type == "cuda" and (device.index or 0) >= self._devices:
            raise RuntimeError("CUDA error: invalid device ordinal")

    def _check_generator(self, device: torch.device | None, generator: torch.Generator | None) -> None:
        if device is not None and generator is not None and generator.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

    def _check_races(self, name: str, tensors: list[Tensor], out: Tensor | None) -> None:
        writes = name.endswith("_") or name == "__setitem__" or out is not None
        for each in tensors:
            self.runtime.pinned.check(each, name, writes=writes and each is (tensors[0] if out is None else out))

    def _common(self, name: str, tensors: list[Tensor], told: torch.device | None) -> torch.device | None:
        """The device of the result, None for the host. Raises DeviceMix; a CPU's scalar goes with every device."""
        if told is not None:
            return told if told.type == "cuda" else None
        found = {each.device for each in tensors if each.dim() > 0 or isinstance(each, OnGpu)}
        if len(found) > 1:
            devices = sorted(map(str, found))
            raise DeviceMix(
                f"Expected all tensors to be on the same device, but found {devices} in {name} at {_where()[0]}"
            )
        return next((device for device in found if device.type == "cuda"), None)

    def _cross(self, kind: str, what: str, numbers: int, *, blocks: bool = True) -> None:
        self.runtime.check_alive()
        stack = _where()
        self.crossings.append(Crossing(kind, what, stack[0], numbers, blocks, stack))
        if self.runtime.graph is not None and blocks:
            raise NotInCapture(f"operation not permitted when stream is capturing: {kind} by {what} at {stack[0]}")


class _Launches(TorchDispatchMode):
    """Counts, or records, the operators that one of torch's functions runs on a device."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime, self._local = runtime, threading.local()

    @contextmanager
    def on(self, device: torch.device | None, *, copies: bool = False) -> Iterator[None]:
        """Where the operators of this block run; a copy between host and device is recorded, and no launch."""
        if device is None:
            yield
            return
        self._runtime.check_alive()
        self._local.copies = copies
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if self._runtime.graph is not None:
            self._runtime.graph.record(func, args, kwargs, result)
        elif not self._local.copies and launches(func, (args, kwargs), result):
            self._runtime.launch(str(func))
        return result


@contextmanager
def pretended_cuda(devices: int = 1, capability: tuple[int, int] = (9, 0)) -> Iterator[PretendedCuda]:
    """Pretends GPUs, in this thread and in every thread that starts meanwhile."""
    gpu = PretendedCuda(devices, capability)
    # a module that moves to "cuda" gets new parameters, which say that they are there
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, gpu:
            for name, value in gpu.runtime.functions().items():
                patch.setattr(torch.cuda, name, value)
            patch.setattr(pieces, "INPUTS", 8)  # a shorter trial of layers than on a real one, which computes faster
            patch.setattr(row_counts, "MOST_ON_GPU", 8)
            patch.setattr(threading.Thread, "run", _within(gpu, threading.Thread.run))
            yield gpu
    finally:
        _stream.cache_clear()
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _is_composite(func: Any) -> bool:
    """Whether an operator is made of others as it runs; those written in Python are so only when they are traced."""
    key = DispatchKey.CompositeImplicitAutograd
    return key not in func.py_kernels and func.has_kernel_for_dispatch_key(key)


def _within(gpu: PretendedCuda, run: Any) -> Any:
    def run_within(thread: threading.Thread) -> None:
        with gpu:
            run(thread)

    return run_within


def _move(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], source: torch.device) -> tuple[torch.device, Any]:
    """The arguments of `to`, `cpu` and `cuda`: the target, and the options that a CPU's `to` takes."""
    target = {"cpu": CPU, "cuda": torch.device("cuda", 0)}.get(name, source)
    flags: list[bool] = []  # non_blocking, copy
    options: dict[str, Any] = {}
    for key, value in [*((None, each) for each in args[1:]), *kwargs.items()]:
        if isinstance(value, Tensor):
            target, options["dtype"] = value.device, value.dtype
        elif isinstance(value, bool) and key is None:
            flags.append(value)
        elif isinstance(value, str | torch.device | int) and key in {None, "device"}:
            target = _device(value)
        elif isinstance(value, torch.dtype):
            options["dtype"] = value
        elif key is not None and value is not None and key not in {"device", "other"}:
            options[key] = value
    return target, options | dict(zip(("non_blocking", "copy"), flags, strict=False))


def _kind(source: torch.device, target: torch.device) -> str:
    if source.type == target.type:
        return "between devices"
    return "to device" if target.type == "cuda" else "to host"


def _device(given: Any) -> torch.device:
    device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def _plain(tree: Any) -> Any:
    return _mapped(lambda each: each.as_subclass(Tensor) if isinstance(each, OnGpu) else each, tree)


def _on(tree: Any, device: torch.device) -> Any:
    """The tree with its tensors on this device, or as they are for the host."""

    def moved(tensor: Tensor) -> Tensor:
        on = tensor.as_subclass(OnGpu)
        if device.index:
            on.__dict__["_pretended"] = device
        return on

    return _mapped(moved, tree) if device.type == "cuda" else tree


def _mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Nested tuples, lists and dictionaries with each tensor changed. torch's pytree takes several times as long."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(change, each) for key, each in tree.items()}
    if type(tree) in {tuple, list}:
        return type(tree)(_mapped(change, each) for each in tree)
    if isinstance(tree, tuple) and tensors_of(tree):  # torch.return_types
        return type(tree)([_mapped(change, each) for each in tree])
    return tree


def _where() -> tuple[str, ...]:
    """The lines of ours that led here, the innermost first."""
    lines = []
    frame = sys._getframe(2)
    while frame is not None:
        if (file := _file_of_ours(frame.f_code.co_filename)) is not None:
            lines.append(f"{file}:{frame.f_lineno}")
        frame = frame.f_back
    return tuple(lines) or ("elsewhere",)


@cache
def _file_of_ours(name: str) -> str | None:
    parts = Path(name).parts
    package = next((part for part in parts if part in OURS), None)
    return None if package is None or "tests" in parts else "/".join(parts[parts.index(package) :])
