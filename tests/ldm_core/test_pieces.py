"""Layers whose bits depend on the number of rows, or on a place, give every row the same bits once they are tried."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ldm_core.acceleration.pieces import InPieces, admit, in_pieces

COUNTS = (2, 4, 8, 16, 32)
ULP = 1 + 2.0**-20


class Sums(nn.Module):
    """A layer that adds up in another order in calls of `above` rows and more, and of less than `below`."""

    def __init__(self, above: int = 64, below: int = 0) -> None:
        super().__init__()
        self.above, self.below = above, below
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return x * ULP if len(x) >= self.above or len(x) < self.below else x


class ByPlace(nn.Module):
    """A layer whose second row of a call is computed otherwise than its first."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:1], x[1:] * ULP])


class Rare(nn.Module):
    """A layer that adds up large numbers in another order in calls of more than two rows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() > 16, x * ULP, x) if len(x) > 2 else x


def tried(layer: nn.Module) -> InPieces:
    network = nn.Sequential(layer)
    in_pieces(network, (type(layer),))
    admit(network, lambda: network(torch.zeros(2, 3, 4, 4)), COUNTS)
    return network[0]  # type: ignore[return-value]


@pytest.mark.parametrize(
    "layer", [Sums(), Sums(above=8), Sums(above=3), Sums(below=2), Sums(above=16, below=2), ByPlace(), Rare()], ids=repr
)
def test_a_row_has_the_same_bits_in_calls_of_every_count_and_at_every_place(layer: nn.Module) -> None:
    found = tried(layer)
    x = 20 * torch.randn(32, 3, 4, 4)
    expected = torch.cat([found(pair) for pair in x.split(2)])
    for count in (1, *COUNTS):
        order = torch.randperm(32)
        assert torch.equal(torch.cat([found(few) for few in x[order].split(count)]), expected[order]), count


def test_a_layer_runs_in_the_largest_pieces_that_agree() -> None:
    found = tried(Sums(above=16))
    layer = found.layer
    assert isinstance(layer, Sums)
    layer.calls.clear()
    found(torch.randn(32, 3, 4, 4))
    found(torch.randn(8, 3, 4, 4))
    found(torch.randn(32, 3, 8, 8))  # a size that has not been tried
    assert layer.calls == [8, 8, 8, 8, 8, 32]


def test_one_row_is_filled_up_where_that_changes_its_bits() -> None:
    found = tried(Sums(below=2))
    layer = found.layer
    assert isinstance(layer, Sums)
    layer.calls.clear()
    assert found(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)
    assert layer.calls == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_of_torchs_own_layers(dtype: torch.dtype) -> None:
    """On this processor, whose libraries choose by the number of rows too."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 32, 3), nn.GroupNorm(4, 32), nn.SiLU(), nn.Flatten(2), nn.Linear(36, 24))
    network = network.to(dtype).eval()
    in_pieces(network, (nn.Conv2d, nn.GroupNorm, nn.Linear))
    admit(network, lambda: network(torch.zeros(2, 4, 8, 8, dtype=dtype)), COUNTS)
    x = (torch.randn(32, 4, 8, 8) * torch.tensor([0.1, 1.0, 3.0, 9.0]).repeat(8)[:, None, None, None]).to(dtype)
    with torch.inference_mode():
        expected = torch.cat([network(pair) for pair in x.split(2)])
        for count in (1, *COUNTS):
            order = torch.randperm(32)
            assert torch.equal(torch.cat([network(few) for few in x[order].split(count)]), expected[order]), count
