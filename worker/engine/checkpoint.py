"""A half-done job in bytes: latents, what the sampler remembers, step and generator of each image. No pickle.

Whoever resumes from it goes on to the very bytes of an undisturbed run, so it is taken only where those would be the
same: by the same build of torch, on the same kind of device, with the same weights, dtype and rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldm_core.acceleration import accelerate
from ldm_core.model import LatentDiffusion
from ldm_core.sampling.plan import MEMORY
from worker.engine.request import EncodedImage, Request
from worker.engine.saved_sample import SavedSample


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A job's images: those under way, with the results of the passes behind them, and those that are done."""

    place: str  # where it can be resumed
    samples: Mapping[int, SavedSample] = field(default_factory=dict)
    drawn: Mapping[int, Sequence[Image.Image]] = field(default_factory=dict)
    done: Mapping[int, EncodedImage] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, place: str) -> Checkpoint:
        """The request as it is, seen from the device thread."""
        resting = {run.index: request.resumes[run.index] for run in request.runs if run.index in request.resumes}
        running = resting | {run.index: SavedSample.of(run.sample) for run in request.runs if run.sample is not None}
        drawn = {run.index: tuple(run.drawn) for run in request.runs if run.drawn and run.index not in request.done}
        samples = {i: saved for i, saved in running.items() if i not in request.done}
        return cls(place, samples, drawn, dict(request.done))

    def restore(self, request: Request) -> None:
        """Brings a request that has not begun to where this one was."""
        for index, images in self.drawn.items():
            for image in images:
                request.runs[index].advance(image)
        request.resumes, request.done = dict(self.samples), dict(self.done)

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        tensors: dict[str, Tensor] = {}
        about: dict[str, Any] = {"place": self.place, "samples": {}, "drawn": {}, "done": {}}
        for index, sample in self.samples.items():
            about["samples"][index] = sample.step
            tensors |= {f"{index}.x": _own(sample.x), f"{index}.noise": _own(sample.noise)}
            history = _own(sample.history)
            if history.any():  # most samplers remember nothing
                tensors[f"{index}.history"] = history
        for index, images in self.drawn.items():
            about["drawn"][index] = len(images)
            tensors |= {f"{index}.drawn{i}": _pixels(image) for i, image in enumerate(images)}
        for index, image in self.done.items():
            about["done"][index] = [image.seed, image.width, image.height]
            tensors[f"{index}.image"] = torch.from_numpy(np.frombuffer(image.data, np.uint8).copy())
        return save(tensors, {"about": json.dumps(about)})

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> Checkpoint | None:
        """None where it cannot be read, or resumed at `place`: then the job starts over."""
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about, tensors = json.loads(header["__metadata__"]["about"]), load(data)
            if about["place"] != place:
                return None
            samples = {int(index): _sample(tensors, index, step) for index, step in about["samples"].items()}
            drawn = {
                int(index): [Image.fromarray(tensors[f"{index}.drawn{i}"].numpy()) for i in range(count)]
                for index, count in about["drawn"].items()
            }
            done = {
                int(index): EncodedImage(tensors[f"{index}.image"].numpy().tobytes(), *told)
                for index, told in about["done"].items()
            }
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None
        return cls(place, samples, drawn, done)


def fingerprint(model: LatentDiffusion, rows: int) -> str:
    """Everything on which an image's bytes depend, beside its request."""
    device = accelerate.fingerprint(model.device)
    if model.device.type == "cpu":
        device += f" x {torch.get_num_threads()}"
    return f"torch {torch.__version__}, {model.device.type} {device}, {model.dtype}, {rows} rows, {model.digest}"


def _sample(tensors: Mapping[str, Tensor], index: str, step: int) -> SavedSample:
    x = tensors[f"{index}.x"]
    history = tensors.get(f"{index}.history")
    return SavedSample(
        step, x, x.new_zeros(1, MEMORY, *x.shape[1:]) if history is None else history, tensors[f"{index}.noise"]
    )


def _pixels(image: Image.Image) -> Tensor:
    """(H, W, 3), in 8 bits."""
    return torch.from_numpy(np.array(image))


def _own(tensor: Tensor) -> Tensor:
    """On the CPU and without the rest of the batch that it is a part of."""
    return tensor.detach().to("cpu", copy=True).contiguous()
