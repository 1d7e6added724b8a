"""One resumable training loop for every stage: steps, learning rate, checkpoints, progress, a time limit."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the training command: where its checkpoints lie, and until when it may run.

    Nothing is compiled: with torch 2.13 on a CPU, the bf16 gradients of a compiled U-Net were wrong without a word
    (norm parameters got none, the whole gradient was 78 % off).
    """

    folder: Path
    deadline: float | None = None  # on the monotonic clock


class TimeUp(Exception):
    """The time limit passed; the checkpoint is written and the same command goes on from it."""


class EMA:
    """Exponential moving average of a module's parameters, with a warm-up so that it forgets the first steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.names = [name for name, _ in module.named_parameters()]
        self.average = [p.detach().clone().float() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.average, [p.detach().float() for p in module.parameters()], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)


class Guard:
    """Notices a run that has run away: its average loss is far above the best that it had. Each time, steps halve."""

    def __init__(self, far: float = 3.0, every: int = 20) -> None:
        self.far, self.every = far, every
        self.scale, self.average, self.best, self.count = 1.0, 0.0, float("inf"), 0
        self._recent: list[Tensor] = []  # kept as tensors, so that the device is not waited for at every step

    def diverged(self, loss: Tensor) -> bool:
        """Takes one step's loss; true when it is time to go back to the averaged weights with smaller steps."""
        self._recent.append(loss)
        if len(self._recent) < self.every:
            return False
        latest = float(torch.stack(self._recent).mean())
        self._recent.clear()
        self.count += 1
        self.average = latest if self.count == 1 else 0.7 * self.average + 0.3 * latest
        if self.average <= self.far * self.best:
            self.best = min(self.best, self.average)
            return False
        self.scale, self.count = self.scale / 2, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "average": self.average, "best": self.best, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Loop:
    """Iterates over the steps that are left of a stage, saving `parts` every minute and at the end.

    >>> for step in Loop("unet", 1000, session, {"model": unet, "optimizer": optimizer}): ...
    """

    def __init__(
        self,
        name: str,
        steps: int,
        session: Session,
        parts: Mapping[str, Stateful],
        *,
        save_every_s: float = 60.0,
        log_every_s: float = 10.0,
    ) -> None:
        self.name, self.steps, self.parts, self.deadline = name, steps, parts, session.deadline
        self.save_every_s, self.log_every_s = save_every_s, log_every_s
        self.file = session.folder / f"{name}.checkpoint.pt"
        self.first = self._resume()

    def __iter__(self) -> Iterator[int]:
        started = saved = logged = time.monotonic()
        for step in range(self.first, self.steps):
            yield step
            now = time.monotonic()
            if now - logged > self.log_every_s or step + 1 == self.steps:
                logged = now
                self._log(step + 1, (step + 1 - self.first) / (now - started))
            if self.deadline is not None and now > self.deadline and step + 1 < self.steps:
                self._save(step + 1)
                raise TimeUp(f"{self.name}: stopped at step {step + 1} of {self.steps}, run the same command to go on")
            if now - saved > self.save_every_s:
                saved = now
                self._save(step + 1)
        self._save(self.steps)

    def report(self, **figures: Tensor | float) -> None:
        """Figures to show with the next progress line; kept as tensors, so that the device is not waited for."""
        self._figures = figures

    _figures: Mapping[str, Tensor | float] = {}

    def _log(self, done: int, rate: float) -> None:
        figures = "  ".join(f"{key} {float(value):.4f}" for key, value in self._figures.items())
        left = (self.steps - done) / rate
        logger.info("%s  step %d/%d  %.1f steps/s  %.0f s left  %s", self.name, done, self.steps, rate, left, figures)

    def _resume(self) -> int:
        if not self.file.exists():
            return 0
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        for key, part in self.parts.items():
            part.load_state_dict(state[key])
        logger.info("%s  resumed at step %d", self.name, state["step"])
        return int(state["step"])

    def _save(self, step: int) -> None:
        partial = self.file.with_suffix(".partial")
        torch.save({"step": step, **{key: part.state_dict() for key, part in self.parts.items()}}, partial)
        os.replace(partial, self.file)


def warmup_stable_decay(steps: int, warmup: int = 200, decay: float = 0.3) -> Callable[[int], float]:
    """Learning-rate factor: linear up, level, then a straight line to 2 % over the last `decay` of the steps.

    Unlike a cosine, the level part does not know how long the run will be: a run is lengthened by asking for more.
    """
    warmup = min(warmup, steps // 4 + 1)

    def factor(step: int) -> float:
        left = (steps - step) / max(1.0, decay * steps)
        return min(1.0, (step + 1) / warmup, max(left, 0.02))

    return factor
