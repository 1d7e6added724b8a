"""How many rows a U-Net call has, so that each row has the same bytes whatever shares the call and wherever it stands.

Nothing is timed, so that a restart changes nobody's bytes. A ladder begins with the rows that a lone request takes;
larger calls are on it only where they give a row the same bytes.

On a CPU this is a rule. In float32, what a U-Net computes over several rows at once are products of matrices, of which
MKL's strict mode computes each row alike (environment.py); the kernels and oneDNN's convolutions take each row by
itself. In a small U-Net larger calls take up to a third less time per row. In other dtypes oneDNN adds up larger
products in another order, and calls keep their number of rows.

On CUDA it is a trial of every layer, when a size is first called with more rows (acceleration/pieces.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ldm_core.acceleration import native
from ldm_core.acceleration.pieces import admit
from ldm_core.networks.unet import UNet

MOST = 8  # rows on a CPU: beyond them, `scenes` gains a tenth and a lone request waits longer for its turn
MOST_ON_GPU = 32
SMALL = 50e6  # weights; arithmetic takes so long in a larger U-Net that calls hardly show
NEAR = 32 * 32  # positions, for the same reason


def default_rows(unet: UNet, device: torch.device, *, guided: bool) -> int:
    """Rows of the smallest U-Net call where nothing is set: those of a request by default, one where products are not
    reproducible. `guided`: whether a request takes two rows by default.
    """
    if device.type == "cuda":
        return 2 if guided else 1
    return 2 if native.reproducible_products() and (guided or is_small(unet)) else 1


class Ladder:
    """The numbers of rows in which `unet` may be called, beginning with `rows`."""

    def __init__(self, unet: UNet, device: torch.device, dtype: torch.dtype, rows: int) -> None:
        self._unet, self._dtype, self._rows, self._on_gpu = unet, dtype, rows, device.type == "cuda"
        self._small = is_small(unet)
        self._tried: set[tuple[int, ...]] = set()
        self._fits: dict[tuple[int, ...], int] = {}  # the most rows that fit into the device's memory, where not all do

    def counts(self, x: Tensor, *, tiled: bool) -> tuple[int, ...]:
        """In growing order, for latents of the shape of x, (B, C, h, w)."""
        counts = self._all(x, tiled=tiled)
        fits = self._fits.get(tuple(x.shape[1:]), counts[-1])
        return tuple(count for count in counts if count <= fits) or (fits,)

    def admit(self, x: Tensor, call: Callable[[], object], *, tiled: bool) -> None:
        """Before latents of the shape of x are stepped for the first time; `call` makes a call of the least rows."""
        if self._on_gpu and (shape := tuple(x.shape[1:])) not in self._tried:
            admit(self._unet, call, self._all(x, tiled=tiled))
            self._tried.add(shape)

    def narrow(self, x: Tensor, rows: int) -> bool:
        """Takes calls of `rows` rows off the ladder, since they do not fit into memory. False if nothing would be left.

        A GPU's layers fill up calls of one row where that changes their bits; on a CPU nothing does.
        """
        if rows <= (1 if self._on_gpu else self._rows):
            return False
        self._fits[tuple(x.shape[1:])] = rows // 2
        return True

    def _all(self, x: Tensor, *, tiled: bool) -> tuple[int, ...]:
        counts, most = [self._rows], self._rows if tiled else self._most(x)
        while 2 * counts[-1] <= most:
            counts.append(2 * counts[-1])
        return tuple(counts)

    def _most(self, x: Tensor) -> int:
        if self._on_gpu:
            return MOST_ON_GPU
        near = x[0, 0].numel() <= NEAR
        grows = self._small and near and self._dtype == torch.float32 and self._rows > 1 and _alike()
        return MOST if grows else self._rows


def is_small(unet: UNet) -> bool:
    """Whether a call's time shows beside its arithmetic."""
    return sum(weight.numel() for weight in unet.parameters()) < SMALL


def _alike() -> bool:
    return native.reproducible_products() and native.present()
