"""Calls that are recorded once for each shape and then repeated: fill the buffers, replay, clone.

On a CPU a recording is a tape of operators (tape.py), on CUDA a captured graph (graph.py). What a network calls depends
on shapes alone, so a replay gives the bytes of a plain call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_core.lru_cache import BUDGET, LRUCache

Call = Callable[..., Tensor]
Parts = tuple[Tensor | None, ...]

KEPT_SHAPES = 32
KEPT_PROMPTS = 32  # of Stable Diffusion 2.x, 10 MB
RECORDED = 2  # which call of a shape is; the first one brings weights into their layouts


@dataclass(frozen=True, slots=True)
class Recording:
    """A call over buffers of its own, for one thread at a time."""

    inputs: Parts
    output: Tensor
    replay: Callable[[], None]  # computes `output` from `inputs`
    nbytes: int  # of main memory that are kept

    def __call__(self, parts: Parts) -> Tensor:
        for buffer, part in zip(self.inputs, parts, strict=True):
            if buffer is not None and part is not None:
                buffer.copy_(part)
        self.replay()
        return self.output.clone()  # the next replay writes over it


# calls once: its result, and a recording where the call can be repeated
Record = Callable[[Call, Parts], tuple[Tensor, Recording | None]]


class Replayed:
    """A call of a frozen network that repeats itself. Of several threads at once only one repeats, the others call."""

    def __init__(self, call: Call, record: Record) -> None:
        self._call, self._record = call, record
        self._shapes: LRUCache[_Shape] = LRUCache()

    def __call__(self, *parts: Tensor | None) -> Tensor:
        with torch.inference_mode():
            output = self._output(parts)
        return output if torch.is_inference_mode_enabled() else output.clone()  # which may be written to

    def _output(self, parts: Parts) -> Tensor:
        key = tuple(None if part is None else (part.dtype, part.shape) for part in parts)
        shape = self._shapes.get(key, _Shape, KEPT_SHAPES)
        BUDGET.use(self._shapes, key, shape.nbytes)
        try:
            recording = shape.recordings.pop()
        except IndexError:
            # every call of a shape begins with the same layout and alignment, on which its last bits may depend
            plain = torch.contiguous_format
            laid_out = tuple(None if part is None else part.clone(memory_format=plain) for part in parts)
            output = shape.call(self._call, self._record, laid_out)
            BUDGET.use(self._shapes, key, shape.nbytes)
            return output
        try:
            return recording(parts)
        finally:
            shape.recordings.append(recording)


class _Shape:
    """The calls of one shape."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []  # one or none, which is taken out while it runs
        self.nbytes = 0  # that the recording keeps
        self._calls = 0
        self._counting = threading.Lock()

    def call(self, call: Call, record: Record, parts: Parts) -> Tensor:
        with self._counting:
            self._calls += 1
            recorded = self._calls == RECORDED
        if not recorded:
            return call(*parts)
        output, recording = record(call, parts)
        if recording is not None:
            self.nbytes = recording.nbytes
            self.recordings.append(recording)
        return output


class Cached:
    """A frozen text encoder's call, whose latest results are kept: images of one job share their prompts."""

    def __init__(self, encode: Callable[[str], Tensor]) -> None:
        self._encode = encode
        self._contexts: LRUCache[Tensor] = LRUCache()

    @torch.no_grad()
    @torch.inference_mode(False)  # later callers may be outside inference mode
    def __call__(self, prompt: str) -> Tensor:
        return self._contexts.get(prompt, lambda: self._encode(prompt), KEPT_PROMPTS)
