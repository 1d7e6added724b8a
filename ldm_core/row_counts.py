"""How many rows a U-Net call has, so that each row has the same bytes whatever shares the call and wherever it stands.

The rule is fixed: nothing is timed or tried, so that a restart changes nobody's bytes. In float32 on a CPU, what a
U-Net computes over several rows at once are products of matrices, of which MKL's strict mode computes each row alike
(environment.py); the kernels and oneDNN's convolutions take each row by itself. So larger calls give the same bytes as
calls of two rows, and in a small U-Net they take up to a third less time per row. In other dtypes oneDNN adds up larger
products in another order, and calls keep their number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ldm_core.acceleration import native
from ldm_core.networks.unet import UNet

MOST = 8  # rows: beyond them, `scenes` gains a tenth and a lone request waits longer for its turn
SMALL = 50e6  # weights; arithmetic takes so long in a larger U-Net that calls hardly show
NEAR = 32 * 32  # positions, for the same reason


def default_rows(unet: UNet, device: torch.device, *, guided: bool) -> int:
    """Rows of one U-Net call where nothing is set: below this the device idles, above it nothing is gained.

    One where products are not reproducible. `guided`: whether a request takes two rows by default.
    """
    if device.type == "cuda":
        return 16
    return 2 if native.reproducible_products() and (guided or is_small(unet)) else 1


def row_counts(x: Tensor, dtype: torch.dtype, rows: int) -> tuple[int, ...]:
    """`rows`, and the larger counts that give x, (B, C, h, w), the same bytes in a small U-Net, in growing order."""
    counts = [rows]
    if x.device.type == "cpu" and dtype == torch.float32 and rows > 1 and x[0, 0].numel() <= NEAR and _alike():
        while 2 * counts[-1] <= MOST:
            counts.append(2 * counts[-1])
    return tuple(counts)


def is_small(unet: UNet) -> bool:
    """Whether a call's time shows beside its arithmetic."""
    return sum(weight.numel() for weight in unet.parameters()) < SMALL


def _alike() -> bool:
    return native.reproducible_products() and native.present()


def calls(n: int, counts: Sequence[int]) -> Iterator[list[int]]:
    """Rows 0 … n-1 as calls of these counts; the last is filled up with copies whose results nobody reads."""
    first = 0
    while first < n:
        count = next((count for count in counts if count >= n - first), counts[-1])
        batch = list(range(first, min(first + count, n)))
        yield batch + [first] * (count - len(batch))
        first += count
