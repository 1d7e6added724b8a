"""What people write today: diffusers' pipelines behind FastAPI. `benchmarks.serving` starts it.

Mode `lock` runs one request at a time; mode `static` takes together what is alike (task, size, steps, guidance) at the
moment at which the pipeline is free, as far as `--batch` goes.

    python -m benchmarks.peer --mode lock --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import diffusers
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image

from benchmarks.serving import FIRST_STEP

BUILTIN = Path(__file__).parents[1] / "ldm_core/builtin"


class Pipelines:
    """The built-in models in diffusers' own classes, with its defaults."""

    def __init__(self, dtype: torch.dtype) -> None:
        def load(kind: Any, name: str) -> Any:
            pipeline = kind.from_pretrained(str(BUILTIN / name), torch_dtype=dtype)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline

        self._paint = load(diffusers.StableDiffusionInpaintPipeline, "scenes")
        self._enlarge = load(diffusers.StableDiffusionUpscalePipeline, "scenes-superres")

    def run(self, task: str, bodies: list[dict[str, Any]]) -> tuple[list[bytes], float]:
        """Requests that are alike but for prompt, seed and images, in one call; when its first step had ended."""
        steps: list[float] = []

        def stepped(*told: Any) -> Any:
            steps.append(time.monotonic())
            return told[-1]

        first = bodies[0]
        common = {
            "prompt": [body.get("prompt", "") for body in bodies],
            "num_inference_steps": first["steps"],
            "guidance_scale": first["guidance_scale"],
            "generator": [torch.Generator().manual_seed(body["seed"]) for body in bodies],
        }
        if task == "superres":
            pictures = [_opened(body["image"]) for body in bodies]
            images = self._enlarge(**common, image=pictures, noise_level=20, callback=stepped).images
        else:
            side = _side(first)
            blank, all_of_it = Image.new("RGB", (side, side), (127, 127, 127)), Image.new("L", (side, side), 255)
            pictures = [_opened(body["image"]) if "image" in body else blank for body in bodies]
            masks = [_opened(body["mask"]).convert("L") if "mask" in body else all_of_it for body in bodies]
            images = self._paint(
                **common, image=pictures, mask_image=masks, height=side, width=side, callback_on_step_end=stepped
            ).images
        return [_png(image) for image in images], steps[0]


def _opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def _side(body: dict[str, Any]) -> int:
    return int(body["width"]) if "width" in body else _opened(body["image"]).width


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Batcher:
    """Requests wait here for the one pipeline."""

    def __init__(self, pipelines: Pipelines, most: int) -> None:
        self._pipelines, self._most = pipelines, most
        self._waiting: list[tuple[Hashable, str, dict[str, Any], asyncio.Future[tuple[bytes, float]]]] = []
        self._busy = asyncio.Lock()

    async def run(self, task: str, body: dict[str, Any]) -> tuple[bytes, float]:
        future = asyncio.get_running_loop().create_future()
        alike = task, _side(body), body["steps"], body["guidance_scale"]
        self._waiting.append((alike, task, body, future))
        async with self._busy:
            if not future.done():
                await self._take(self._waiting[0][0])
        return await future

    async def _take(self, kind: Hashable) -> None:
        batch = [entry for entry in self._waiting if entry[0] == kind][: self._most]
        self._waiting = [entry for entry in self._waiting if entry not in batch]
        bodies = [body for _, _, body, _ in batch]
        images, began = await asyncio.to_thread(self._pipelines.run, batch[0][1], bodies)
        for (_, _, _, future), image in zip(batch, images, strict=True):
            future.set_result((image, began))


def create_app(batcher: Batcher) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/{task}")
    async def make(task: str, request: Request) -> Response:
        arrived = time.monotonic()
        image, began = await batcher.run(task, await request.json())
        return Response(image, media_type="image/png", headers={FIRST_STEP: str(began - arrived)})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("lock", "static"), default="lock")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    batcher = Batcher(Pipelines(getattr(torch, args.dtype)), 1 if args.mode == "lock" else args.batch)
    uvicorn.run(create_app(batcher), host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
