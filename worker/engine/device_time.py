"""How much of the device each owner of jobs has used: the virtual time of weighted fair queueing. No torch.

An owner's virtual time is the device seconds that its images took, divided by their weight. Whoever has the least is
next; so owners with work share the device equally, however many, large or new their images are.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from worker.engine.request import ImageRun

KINDS = 10_000  # of images whose times are remembered


@dataclass(slots=True)
class Account:
    """What an owner has used in virtual time, and the number of steps it had a part in."""

    used: float
    steps: int = 0


class DeviceTime:
    """The accounts of all owners, and what steps cost: those of unknown kinds `unknown_s`. Not thread-safe."""

    def __init__(self, unknown_s: float) -> None:
        self._unknown_s = unknown_s
        self._accounts: dict[str, Account] = {}
        self._now = 0.0  # what the owner with work that has used least had used when the present step was chosen
        self._row_s: dict[Hashable, float] = {}  # seconds of a row, by the kind of image
        self._begin_s: dict[Hashable, float] = {}  # seconds before an image's first step

    def account(self, owner: str) -> Account:
        """An owner's account. Who is new, or had no work, begins at the present time: idling earns nothing."""
        account = self._accounts.setdefault(owner, Account(self._now))
        account.used = max(account.used, self._now)
        return account

    def advance(self, owners: Collection[str]) -> None:
        """Moves the present time to the least that `owners`, those with work, have used; it never goes back."""
        self._now = max(self._now, min((self.account(owner).used for owner in owners), default=self._now))
        settled = [name for name, account in self._accounts.items() if account.used <= self._now]
        for name in settled:
            if name not in owners:
                del self._accounts[name]

    def cost(self, run: ImageRun) -> float:
        """Seconds that the next step of an image will take."""
        row_s = self._row_s.get(run.kind)
        if row_s is None:
            return self._unknown_s
        return run.rows * row_s + (self._begin_s.get(run.kind, 0.0) if run.sample is None else 0.0)

    def end(self, run: ImageRun) -> float:
        """The virtual time of its owner once the image has done its next step."""
        return self.account(run.owner).used + self.cost(run) / run.request.payload.weight

    def charge(self, runs: Sequence[ImageRun], seconds: float) -> None:
        """Owners pay what their images, or work for these, took: each by its rows."""
        rows = sum(run.rows for run in runs)
        for run in runs:
            self.account(run.owner).used += seconds * run.rows / rows / run.request.payload.weight

    def charge_begin(self, run: ImageRun, seconds: float) -> None:
        """Charges what came before an image's first step, and remembers it for others of its kind."""
        self._begin_s[run.kind] = seconds
        self.charge([run], seconds)

    def charge_step(self, runs: Sequence[ImageRun], seconds: float) -> None:
        """Charges a step of images that share calls, and remembers it for the next."""
        if len(self._row_s) > KINDS:
            self._row_s.clear()
            self._begin_s.clear()
        self._row_s.update(dict.fromkeys((run.kind for run in runs), seconds / sum(run.rows for run in runs)))
        self.charge(runs, seconds)
