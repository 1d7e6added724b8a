"""Holds what was computed against a case's numbers, within its own tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tests.golden.case import Case
from tests.golden.quantities import compute

SURE = 1e-3  # nearer than the second entry of the codebook by less than this, an index may come out otherwise
MARGIN_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `tolerance` None: not compared at all."""

    case: str
    quantity: str
    difference: float
    tolerance: float | None
    remark: str = ""

    @property
    def ok(self) -> bool:
        return self.tolerance is not None and self.difference <= self.tolerance


def compare(case: Case) -> list[Row]:
    """A row for every quantity of the case, in its own order."""
    computed = dict(compute(case))
    return [_row(case, name, computed) for name in case.outputs()]


def _row(case: Case, name: str, computed: Mapping[str, Tensor]) -> Row:
    here = case.folder.name
    if name not in computed:
        return Row(here, name, float("inf"), None, "not compared")
    mine, theirs = computed[name], case[name]
    if mine.shape != theirs.shape:
        return Row(here, name, float("inf"), 0.0, f"shape {tuple(mine.shape)}, not {tuple(theirs.shape)}")
    difference = (mine.double() - theirs.double()).abs()
    if name.endswith("indices"):
        sure = case[f"{name}_margin"] > SURE
        return Row(here, name, float((difference[sure] > 0).sum()), 0.0)
    if (near := _unsure(case, name, computed)) is not None:
        return Row(here, name, 0.0, 0.0, f"not comparable: {near} indices differ within the margin")
    tolerance = case.info["tensors"][name].get("atol", 0.0)
    if name.endswith("margin"):
        tolerance = MARGIN_TOLERANCE
    return Row(here, name, float(difference.max()), float(tolerance))


# what was decoded through a codebook, and the indices that it went through
THROUGH = {
    "decoded": "vq_indices", "image_uint8": "vq_indices", "quant": "indices", "decoded_from_quant": "indices",
    "z_quantized": "z_indices", "decoded_from_z_quantized": "z_indices",
}  # fmt: skip


def _unsure(case: Case, name: str, computed: Mapping[str, Tensor]) -> int | None:
    """How many indices differ behind a quantity, where any does: the quantity is then another one."""
    group, _, last = name.rpartition("/")
    through = "ddim_eta0/vq_indices" if group == "inpaint" else f"{group}/{THROUGH.get(last)}"
    if name == "inpaint/c" or through not in computed or through not in case:
        return None
    differing = int((computed[through] != case[through]).sum())
    return differing or None
