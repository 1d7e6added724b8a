"""A small network that reads a scene's attributes from its image: how `evaluate` tells whether a model obeys.

python -m training.classifier --data RUN/data --out ldm_core/builtin/classifier.safetensors --limit-s 300
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.scenes import dataset
from training.scenes.scene import ATTRIBUTES

logger = logging.getLogger(__name__)

SIDE = 64
Attributes = Mapping[str, tuple[str, ...]]


class AttributeClassifier(nn.Module):
    """One head for each attribute over a convolutional trunk that keeps positions: (B, 3, 64, 64) in [-1, 1]."""

    def __init__(self, attributes: Attributes = ATTRIBUTES) -> None:
        super().__init__()
        self.attributes = {name: tuple(values) for name, values in attributes.items()}
        self.trunk = nn.Sequential(
            *_block(3, 32, 2, kernel=5),
            *_block(32, 64, 2),
            *_block(64, 96, 1),
            *_block(96, 128, 2),
            *_block(128, 24, 1, kernel=1),
            nn.Flatten(),
            nn.Linear(24 * (SIDE // 8) ** 2, 128),
            nn.ReLU(),
            nn.Dropout(0.1),
        )
        self.heads = nn.Linear(128, sum(len(values) for values in self.attributes.values()))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits, one (B, values) for each attribute."""
        counts = [len(values) for values in self.attributes.values()]
        return torch.as_tensor(self.heads(self.trunk(x)).float()).split(counts, dim=1)

    @torch.inference_mode()
    def read(self, pictures: NDArray[np.uint8] | Tensor, batch: int = 256) -> NDArray[np.int64]:
        """The likeliest value of each attribute, as `Scene.labels`: (N, H, W, 3) uint8 → (N, A)."""
        found = []
        for part in torch.as_tensor(pictures).split(batch):
            x = part.permute(0, 3, 1, 2).float()
            if x.shape[2:] != (SIDE, SIDE):
                x = F.interpolate(x, (SIDE, SIDE), mode="area")
            found.append(torch.stack([logits.argmax(1) for logits in self(x / 127.5 - 1)], dim=1))
        return np.asarray(torch.cat(found))


def _block(channels: int, out: int, stride: int, kernel: int = 3) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]


def save_classifier(model: AttributeClassifier, file: Path) -> None:
    """fp16 safetensors; the table of attributes lies in the metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in ((key, value.detach().cpu().contiguous()) for key, value in model.state_dict().items())
    }
    save_file(state, file, metadata={"format": "pt", "attributes": json.dumps(model.attributes)})


def load_classifier(file: Path) -> AttributeClassifier:
    """Raises ValueError if the file was trained for other attributes than the present ones."""
    with safe_open(file, framework="pt") as stored:
        attributes = {k: tuple(v) for k, v in json.loads(stored.metadata()["attributes"]).items()}
    if list(attributes.items()) != list(ATTRIBUTES.items()):
        raise ValueError(f"{file} reads other attributes than scenes have now; train it again")
    model = AttributeClassifier(attributes)
    model.load_state_dict(load_file(file))  # into float32 parameters
    return model.eval().requires_grad_(False)


def train_classifier(
    pictures: Tensor,
    labels: Tensor,
    *,
    limit_s: float = math.inf,
    steps: int | None = None,
    batch: int = 128,
    peak: float = 2e-3,
    seed: int = 0,
) -> AttributeClassifier:
    """Trains on uint8 (N, 64, 64, 3) and (N, A) for `steps`, or else for `limit_s` seconds.

    The learning rate falls to nothing by then.
    """
    torch.manual_seed(seed)
    model = AttributeClassifier().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01)
    started = logged = time.monotonic()
    done = 0
    while (share := done / steps if steps else (time.monotonic() - started) / limit_s) < 1:
        rate = peak * min(1.0, (done + 1) / 100) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = torch.randint(len(pictures), (batch,))
        x = augmented(pictures[index].permute(0, 3, 1, 2).float() / 127.5 - 1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x.contiguous(memory_format=torch.channels_last))
        loss = torch.stack([F.cross_entropy(head, labels[index, a]) for a, head in enumerate(logits)]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done += 1
        if time.monotonic() - logged > 10:
            logged = time.monotonic()
            logger.info("classifier  %d%%  step %d  loss %.3f", 100 * share, done, loss.item())
    return model.eval().requires_grad_(False)


def augmented(x: Tensor) -> Tensor:
    """Blurred, noisy, a little brighter or darker: what generated images are like and drawn ones are not."""
    rows = (len(x), 1, 1, 1)
    blur = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blur, torch.rand(rows) * (torch.rand(rows) < 0.5))
    x = x * (1 + 0.12 * (torch.rand(rows) - 0.5)) + 0.12 * (torch.rand(rows) - 0.5)
    return x + 0.08 * torch.rand(rows) * torch.randn_like(x)


def accuracies(found: NDArray[np.int64], labels: NDArray[np.uint8]) -> dict[str, float]:
    """The share of right answers for each attribute, in the order of ATTRIBUTES."""
    return dict(zip(ATTRIBUTES, (found == labels).mean(axis=0).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that scenes.dataset drew")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, default=300)
    parser.add_argument("--held-out", type=int, default=1000, help="scenes kept back to measure with, the last ones")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s")
    torch.set_num_threads(args.threads)
    data = dataset.load(args.data)
    kept = len(data.pictures) - args.held_out
    pictures, labels = torch.from_numpy(data.pictures), torch.from_numpy(data.labels).long()
    model = train_classifier(pictures[:kept], labels[:kept], limit_s=args.limit_s)
    save_classifier(model, args.out)
    found = load_classifier(args.out).read(data.pictures[kept:])
    scores = accuracies(found, data.labels[kept:])
    for name, score in scores.items():
        print(f"{name:14s} {score:.4f}")
    print(json.dumps({"mean": sum(scores.values()) / len(scores), **scores}))


if __name__ == "__main__":
    main()
