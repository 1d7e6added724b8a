"""A call of a network on CUDA as a captured graph: some hundred kernels with one launch.

At few rows launching takes longer than computing. All graphs of a network share one pool of memory: they replay one at
a time, and every result is cloned before the next.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ldm_core.acceleration.replay import Call, Parts, Recording

logger = logging.getLogger(__name__)

WARM_CALLS = 3  # before a capture, so that libraries have chosen their algorithms and workspaces


class GraphRecorder:
    """Captures calls of one network."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, call: Call, parts: Parts) -> tuple[Tensor, Recording | None]:
        """Calls. There is no recording where the device cannot capture the call; the log says why."""
        try:
            recording = self._captured(call, tuple(None if part is None else part.clone() for part in parts))
        except RuntimeError as error:  # most likely no memory
            logger.warning("a call is not captured as a CUDA graph: %s", error)
            return call(*parts), None
        return recording(parts), recording

    def _captured(self, call: Call, inputs: Parts) -> Recording:
        device = next(part.device for part in inputs if part is not None)
        with torch.cuda.device(device):  # streams and captures are those of the current one
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_CALLS):
                    call(*inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads may go on with allocations of their own
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                output = call(*inputs)
        return Recording(inputs, output, graph.replay, nbytes=0)
