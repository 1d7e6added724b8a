"""What a GPU computes as a captured graph: some hundred kernels with one launch.

At few rows launching takes longer than computing. The graphs of one `Graphs` share one pool of memory: they replay one
at a time, on one stream, and every result is taken before the next.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ldm_core.acceleration.replay import Call, Parts, Recording
from ldm_core.device import Program

logger = logging.getLogger(__name__)

WARM_CALLS = 3  # before a capture, so that libraries have chosen their algorithms and workspaces


class Graphs:
    """Captures programs over tensors that stay where they are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def capture(self, program: Program) -> Program:
        """Runs `program` a few times, then returns one that replays it. Raises what torch raises."""
        with torch.cuda.device(self._device):  # streams and captures are those of the current one
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            aside = torch.cuda.Stream(priority=torch.cuda.current_stream().priority)  # which the graph's kernels keep
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_CALLS):
                    program()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # other threads may go on with allocations of their own
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                program()
        return graph.replay


class GraphRecorder:
    """Captures calls of one network."""

    def __init__(self, device: torch.device) -> None:
        self._graphs = Graphs(device)

    def __call__(self, call: Call, parts: Parts) -> tuple[Tensor, Recording | None]:
        """Calls. There is no recording where the device cannot capture the call; the log says why."""
        inputs = tuple(None if part is None else part.clone() for part in parts)
        outputs: list[Tensor] = []

        def program() -> None:
            outputs[:] = [call(*inputs)]

        try:
            replay = self._graphs.capture(program)
        except RuntimeError as error:  # most likely no memory
            logger.warning("a call is not captured as a CUDA graph: %s", error)
            return call(*parts), None
        recording = Recording(inputs, outputs[0], replay, nbytes=0)
        return recording(parts), recording
