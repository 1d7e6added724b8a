"""The runtime of the pretended GPU (tests/pretended_cuda.py): streams, events, captured graphs, pinned host memory.

Operators run at once and in order, so a stream here computes nothing. Streams and events tell instead which pinned
buffers a copy may still be using: host code that touches such a buffer before it has waited raises `Race`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

Use = Literal["read", "written"]
PRIORITIES = 0, -5  # of a stream: the least and the greatest
MEMORY = 80 * 2**30  # bytes, of every device


class Race(RuntimeError):
    """Host code uses a pinned buffer while a copy may still read or write the buffer."""


class NotInCapture(RuntimeError):
    """What CUDA says when a captured region waits, or copies from or to pageable memory."""


class Pinned:
    """The pinned buffers of the host, each with the copies that no wait has covered yet."""

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}  # kept alive: no later tensor may get the address of one
        self._uses: dict[int, tuple[Use, Stream]] = {}

    def add(self, tensor: Tensor) -> Tensor:
        """Notes that this tensor's memory is pinned."""
        self._buffers[_address(tensor)] = tensor
        return tensor

    @property
    def in_use(self) -> bool:
        """Whether there may be copies under way."""
        return bool(self._uses)

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor, or the tensor that it is a view of, is pinned."""
        return _address(tensor) in self._buffers

    def copies(self, tensor: Tensor, use: Use, stream: Stream) -> None:
        """Notes a copy that has been enqueued on `stream`."""
        self._uses[_address(tensor)] = use, stream

    def check(self, tensor: Tensor, name: str, *, writes: bool) -> None:
        """Raises Race when host function `name` cannot use the tensor yet."""
        use = self._uses.get(_address(tensor), ("", None))[0]
        if use == "written" or (use == "read" and writes):
            raise Race(f"{name} uses a pinned buffer that a copy may still be having {use}: wait for an event first")

    def pending(self, streams: set[Stream]) -> set[int]:
        """The buffers whose copies are on one of the streams."""
        return {address for address, (_, stream) in self._uses.items() if stream in streams}

    def settle(self, addresses: set[int] | None = None) -> None:
        """Notes that the copies of these buffers have ended, or of all buffers."""
        for address in list(self._uses) if addresses is None else addresses:
            self._uses.pop(address, None)


class Stream:
    """A queue of work. Knows the streams that it waits for, on the host and on the device."""

    runtime: Runtime  # set by the runtime, on a subclass of its own

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device, self.priority = device, priority
        self.after: set[Stream] = {self}

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return PRIORITIES

    def wait_stream(self, other: Stream) -> None:
        self.after |= other.after

    def wait_event(self, event: Event) -> None:
        self.after |= event.after

    def record_event(self, event: Event | None = None) -> Event:
        event = event or self.runtime.Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.runtime.wait("wait", "Stream.synchronize", self.runtime.pinned.pending(self.after))

    def __enter__(self) -> Stream:
        self._before = self.runtime.stream
        self.runtime.stream = self
        return self

    def __exit__(self, *_: Any) -> None:
        self.runtime.stream = self._before


class Event:
    """A place in a stream. Waiting for one is pacing: the host waits for work of its own choice, not for all work."""

    runtime: Runtime

    def __init__(self, **_: Any) -> None:
        self.after: set[Stream] = set()
        self._covers: set[int] = set()

    def record(self, stream: Stream | None = None) -> None:
        self.after = set((stream or self.runtime.stream).after)
        self._covers = self.runtime.pinned.pending(self.after)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self.runtime.stream).wait_event(self)

    def synchronize(self) -> None:
        self.runtime.wait("paced", "Event.synchronize", self._covers)

    def query(self) -> bool:
        self.runtime.pinned.settle(self._covers)
        return True

    def elapsed_time(self, other: Event) -> float:
        return 0.0


class Graph:
    """The operators of a captured region. A replay runs them again, over the same memory."""

    runtime: Runtime

    def __init__(self, **_: Any) -> None:
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.copies: list[tuple[Tensor, Use]] = []  # with pinned buffers

    def pool(self) -> tuple[int, int]:
        return 0, 0

    def reset(self) -> None:
        self.steps.clear()
        self.copies.clear()

    @property
    def nodes(self) -> list[str]:
        """The names of the operators that a replay launches; views launch nothing."""
        return [str(func) for func, args, kwargs, results in self.steps if launches(func, (args, kwargs), results)]

    def replay(self) -> None:
        self.runtime.launch("CUDAGraph.replay")
        with torch.inference_mode(), torch._C.DisableTorchFunction():
            for func, args, kwargs, results in self.steps:
                again = tensors_of(func(*args, **kwargs))
                for result, new in zip(results, again, strict=True):
                    if result.data_ptr() != new.data_ptr():
                        result.copy_(new)
        for buffer, use in self.copies:
            self.runtime.pinned.copies(buffer, use, self.runtime.stream)

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.steps.append((func, args, kwargs, tensors_of(result)))


class Runtime:
    """torch.cuda as far as this project uses it. Streams and captures belong to the thread that enters them."""

    def __init__(self, devices: int, capability: tuple[int, int], cross: Callable[..., None]) -> None:
        self.pinned = Pinned()
        self.graphs: list[Graph] = []  # all that were captured
        self.launched: list[str] = []  # the name of every operator on a device, and one entry for a graph's replay
        self.lost: Exception | None = None  # raised by every later use of the device
        self._devices, self._capability, self._cross = devices, capability, cross
        self._local = threading.local()
        self.Stream, self.Event, self.Graph = (type(kind.__name__, (kind,), {"runtime": self})
                                               for kind in (Stream, Event, Graph))  # fmt: skip
        self._default = self.Stream()

    @property
    def stream(self) -> Stream:
        """The calling thread's current stream."""
        return getattr(self._local, "stream", self._default)

    @stream.setter
    def stream(self, stream: Stream) -> None:
        self._local.stream = stream

    @property
    def graph(self) -> Graph | None:
        """The graph that the calling thread captures."""
        return getattr(self._local, "graph", None)

    @contextmanager
    def capture(self, graph: Graph | None = None, **_: Any) -> Iterator[None]:
        """A region that is captured: what CUDA cannot capture raises NotInCapture."""
        self._local.graph = graph = graph or self.Graph()
        self.graphs.append(graph)
        try:
            yield
        finally:
            self._local.graph = None

    def check_alive(self) -> None:
        """Raises the error of a device that is lost."""
        if self.lost is not None:
            raise self.lost

    def launch(self, name: str) -> None:
        """Notes one launch by the host."""
        self.check_alive()
        self.launched.append(name)

    def wait(self, kind: str, what: str, covers: set[int] | None = None) -> None:
        """The host waits until the copies of these buffers have ended, or all work."""
        self.check_alive()
        self._cross(kind, what, 0)
        self.pinned.settle(covers)

    def functions(self) -> dict[str, Any]:
        """What takes the place of the names in torch.cuda."""
        return {
            "Stream": self.Stream, "Event": self.Event, "CUDAGraph": self.Graph, "graph": self.capture,
            "graph_pool_handle": lambda: (0, 1), "stream": lambda stream: stream or self.stream,
            "current_stream": lambda *_: self.stream, "default_stream": lambda *_: self._default,
            "set_stream": lambda stream: setattr(self, "stream", stream), "device": _nothing, "init": lambda: None,
            "is_available": lambda: True, "device_count": lambda: self._devices, "current_device": lambda: 0,
            "set_device": lambda *_: None, "is_initialized": lambda: True, "empty_cache": lambda: None,
            "is_current_stream_capturing": lambda: self.graph is not None,
            "synchronize": lambda *_: self.wait("wait", "synchronize"),
            "get_device_name": lambda *_: "a GPU that is pretended",
            "get_device_capability": lambda *_: self._capability,
            "is_bf16_supported": lambda *_, **__: self._capability >= (8, 0),
            "get_device_properties": lambda *_: SimpleNamespace(
                name="a GPU that is pretended", major=self._capability[0], minor=self._capability[1],
                total_memory=MEMORY, multi_processor_count=132,
            ),
            "mem_get_info": lambda *_: (MEMORY, MEMORY), "memory_allocated": lambda *_: 0,
            "max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": lambda *_: None,
        }  # fmt: skip


def launches(func: Any, args: Any, results: Any) -> bool:
    """Whether an operator writes memory: in place, or a result that is no view. Allocations launch nothing."""
    if func._schema.is_mutable:
        return True
    given = {_address(each) for each in tensors_of(args)} - {0}
    return "empty" not in func._schema.name and any(_address(each) not in given for each in tensors_of(results))


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return []
    return [each for branch in tree for each in tensors_of(branch)]


@contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _address(tensor: Tensor) -> int:
    """Of the memory that a tensor shares with its views; 0 for oneDNN's opaque layouts, which nothing shares."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
