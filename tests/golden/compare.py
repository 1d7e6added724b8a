"""Holds what was computed against a case's numbers, within its own tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.golden.case import Case
from tests.golden.quantities import groups

SURE = 1e-3  # nearer than the second entry of the codebook by less than this, an index may come out otherwise
MARGIN_TOLERANCE = 1e-3
# what was decoded through a codebook, and the indices that it went through
THROUGH = {
    "decoded": "vq_indices", "image_uint8": "vq_indices", "quant": "indices", "decoded_from_quant": "indices",
    "z_quantized": "z_indices", "decoded_from_z_quantized": "z_indices",
}  # fmt: skip


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


@dataclass(eq=False)
class Computed:
    """The quantities of one case by name, and why the others are not there."""

    tensors: dict[str, Tensor]
    errors: list[str]

    @classmethod
    def of(cls, case: Case) -> Computed:
        computed = cls({}, [])
        for group in groups(case):
            try:
                with torch.inference_mode():
                    for name, tensor in group:
                        computed.tensors[name] = tensor
            except Exception as error:  # whatever went wrong, the other groups are still compared
                computed.errors.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return computed


def compare(case: Case) -> list[Row]:
    """A row for every quantity of the case, in its own order."""
    computed = Computed.of(case)
    return [_row(case, name, computed) for name in case.outputs()]


def _row(case: Case, name: str, computed: Computed) -> Row:
    here = case.folder.name
    if name not in case:
        return Row(here, name, float("inf"), None, "is not in golden.safetensors")
    if name not in computed.tensors:
        return Row(here, name, float("inf"), None, "; ".join(dict.fromkeys(["not compared", *computed.errors])))
    mine, theirs = computed.tensors[name], case[name]
    if mine.shape != theirs.shape:
        return Row(here, name, float("inf"), 0.0, f"shape {tuple(mine.shape)}, not {tuple(theirs.shape)}")
    difference = (mine.double() - theirs.double()).abs()
    if name.endswith("indices"):
        margin = case.get(f"{name}_margin")
        sure = (computed.tensors[f"{name}_margin"] if margin is None else margin) > SURE
        return Row(here, name, float((difference[sure] > 0).sum()), 0.0)
    if (near := _unsure(case, name, computed.tensors)) is not None:
        return Row(here, name, 0.0, 0.0, f"not comparable: {near} indices differ within the margin")
    tolerance = case.about(name).get("atol", 0.0)
    if name.endswith("margin"):
        tolerance = MARGIN_TOLERANCE
    return Row(here, name, float(difference.max()), float(tolerance))


def _unsure(case: Case, name: str, computed: Mapping[str, Tensor]) -> int | None:
    """How many indices differ behind a quantity, where any does: the quantity is then another one."""
    group, _, last = name.rpartition("/")
    through = "ddim_eta0/vq_indices" if group == "inpaint" else f"{group}/{THROUGH.get(last)}"
    if name == "inpaint/c" or through not in computed:
        return None
    theirs = case.get(through)
    if theirs is None:
        theirs = _of_samples(case, group)
    if theirs is None:
        return None
    other, margin = computed[through] != theirs, computed[f"{through}_margin"]
    return int(other.sum()) or None if bool((margin[other] <= SURE).all()) else None


def _of_samples(case: Case, run: str) -> Tensor | None:
    """The entries of the codebook nearest to the latents at which the reference arrived."""
    samples, codebook = case.get(f"{run}/samples"), case.autoencoder.quantize
    if samples is None or codebook is None:
        return None
    with torch.inference_mode():
        return codebook.indices(samples[:1] / case.autoencoder.config.scaling_factor).int()
