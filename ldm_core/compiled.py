"""A U-Net compiled for calls of a few shapes, with torch.compile; on CUDA each of them is one captured graph.

A graph replays some hundred kernels with one launch, where at few rows launching takes longer than computing. Only the
shapes of a warm-up are compiled and every other call stays as it was, so that bytes never depend on what came before.
What a GPU gains is still to be measured (python -m benchmarks.gpu); two CPU cores gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ldm_core.generate import generate
from ldm_core.model import LatentDiffusion
from ldm_core.networks.unet import UNet
from ldm_core.params import GenerationParams

Parts = tuple[Tensor | None, ...]  # x, t, context, class labels
Call = Callable[..., Tensor]
Shapes = tuple[torch.Size | None, ...]

# inductor's own graphs are bound to the thread that made them; the device's thread is not the one that loads
compile_whole = partial(torch.compile, mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)
MODELS = 64  # compiled in one process
WARM_CALLS = 3  # before a capture, so that libraries have chosen their algorithms and workspaces


class CompiledUNet:
    """Called as the U-Net is. It is compiled for the shapes that it is called with while it is `learning`."""

    def __init__(self, unet: UNet) -> None:
        # dynamo counts by the code of `forward`, which all U-Nets share
        torch._dynamo.config.recompile_limit = MODELS
        self._unet = unet
        self._compiled: Call = compile_whole(unet)
        self._calls: dict[Shapes, Call] = {}
        self.learning = True

    def __call__(self, *parts: Tensor | None) -> Tensor:
        shapes = tuple(None if part is None else part.shape for part in parts)
        call = self._calls.get(shapes)
        if call is None:
            if not self.learning:
                return self._unet(*parts)
            on_gpu = any(part is not None and part.is_cuda for part in parts)
            call = self._calls[shapes] = Captured(self._compiled, parts) if on_gpu else self._compiled
        return call(*parts)


def compile_unet(model: LatentDiffusion, rows: int) -> None:
    """Compiles U-Net calls of `rows` rows at the native size, and no others; it takes minutes.

    Less where inductor finds its cache of an earlier time. Other bytes than without are to be expected, but the
    same whoever shares a call.
    """
    learner = CompiledUNet(model.unet)
    model.compiled_unet = learner
    task, (width, height), scale = model.card.tasks[0], model.card.native_size, model.card.scale
    blank = GenerationParams(
        task=task, width=width, height=height, steps=1, seed=0, guidance_scale=model.card.guidance_for(task),
        class_id=0 if task == "class2img" else None, objects=() if task == "layout2img" else None,
    )  # fmt: skip
    pictures = [Image.new(mode, (width // scale, height // scale)) for mode in ("RGB", "L")]
    image, mask = pictures if task != "semantic2img" else pictures[::-1]
    generate(
        model,
        blank,
        image if task in {"inpaint", "superres", "semantic2img"} else None,
        mask if task == "inpaint" else None,
        rows=rows,
    )
    learner.learning = False


class Captured:
    """A call as a CUDA graph over buffers of its own. From one thread at a time."""

    def __init__(self, call: Call, parts: Parts) -> None:
        self._inputs = [None if part is None else part.clone() for part in parts]
        device = next(part.device for part in parts if part is not None)
        with torch.cuda.device(device):  # streams and captures are those of the current one
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_CALLS):
                    call(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            # other threads may go on with allocations of their own
            with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                self._output = call(*self._inputs)

    def __call__(self, *parts: Tensor | None) -> Tensor:
        for buffer, part in zip(self._inputs, parts, strict=True):
            if buffer is not None and part is not None:
                buffer.copy_(part)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it
