"""What one image has become by a step: enough to go on from there to the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ldm_core.sampling.sample import Sample


@dataclass(frozen=True, slots=True)
class SavedSample:
    """What an image has become by its `step`."""

    step: int
    x: Tensor
    history: Tensor
    noise: Tensor

    @classmethod
    def of(cls, sample: Sample) -> SavedSample:
        """Copies, since the next step writes over them; on the device, so that nothing waits."""
        return cls(sample.step, sample.x.clone(), sample.history.clone(), sample.noise.state())

    def restore(self, sample: Sample) -> None:
        """Brings a sample that has just begun to where this one was."""
        sample.x, sample.history = self.x.to(sample.x), self.history.to(sample.history)
        sample.noise.restore(self.noise)
        sample.step = self.step
