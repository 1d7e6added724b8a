"""How many operators a U-Net call has on CUDA, and how many bytes they move between products: counted, not measured."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux")

from benchmarks.networks import DENOISERS
from benchmarks.operators import plain, unet_cost
from ldm_core.acceleration.cuda.layers import replace_layers


def test_a_call_of_stable_diffusion_moves_a_third_of_the_bytes() -> None:
    before, after = (unet_cost(DENOISERS["sd1-512"], 16, torch.bfloat16, how) for how in (plain, replace_layers))
    assert 32 < before.gigabytes < 34 and before.operators == 653
    assert after.gigabytes < 12 and after.operators <= 460
    copies = {"clone", "copy_", "_to_copy", "cat", "constant_pad_nd"}
    assert sum(after.calls[name] for name in copies) == 2  # the latents into padded channels; the timestep's two halves
