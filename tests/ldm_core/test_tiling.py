"""Windows: they cover everything, never exceed their size, and where they agree nothing shows."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_core.generate import generate
from ldm_core.params import GenerationParams
from ldm_core.sampling.tiling import Tiling, Window, covering, tiled
from tests.tiny import tiny_models

SIZES = [(16, 16), (17, 40), (40, 16), (33, 50)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("scale", [1, 4])
def test_what_all_windows_agree_on_comes_out_unchanged(height: int, width: int, scale: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, height, width)
    seen = []

    def enlarge(part: Tensor, place: Window) -> Tensor:
        seen.append(part.shape[2:])
        assert torch.equal(part, x[:, :, place[0], place[1]])
        return part.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    tiling = Tiling(size=(16, 16), stride=(12, 12))
    out = tiled(x, enlarge, tiling, scale)
    assert torch.allclose(out, x.repeat_interleave(scale, 2).repeat_interleave(scale, 3), atol=1e-6)
    assert set(seen) == {(16, 16)}


def test_a_seam_is_blended_and_not_a_step() -> None:
    """Two windows that disagree by one: the change from one to the other is spread over their overlap."""
    levels = iter((0.0, 1.0))
    out = tiled(
        torch.zeros(1, 1, 8, 28), lambda x, _: torch.full_like(x, next(levels)), Tiling(size=(8, 16), stride=(8, 12))
    )
    line = out[0, 0, 4]
    assert line[:12].eq(0).all() and line[16:].eq(1).all()
    assert (line[11:17].diff() < 0.5).all() and (line.diff() >= 0).all()


def test_small_latents_need_no_windows() -> None:
    assert covering(32, 32, 32) is None and covering(999, 999, 0) is None
    tiling = covering(20, 100, 32)
    assert tiling is not None and tiling.size == (20, 32)


def test_super_resolution_of_a_large_image_meets_the_networks_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models()["scenes-superres"]
    limit = model.card.tile // model.card.scale
    sides: list[int] = []
    for network in (model.unet, model.autoencoder.decoder):
        network.register_forward_pre_hook(lambda _, inputs: sides.append(max(inputs[0].shape[2:])))
    small = Image.effect_noise((48, 40), 60).convert("RGB")
    params = GenerationParams(task="superres", width=192, height=160, steps=2, guidance_scale=1.0, seed=1)
    try:
        image = generate(model, params, small, rows=1)[0]
    finally:
        for network in (model.unet, model.autoencoder.decoder):
            network._forward_pre_hooks.clear()
    assert image.size == (192, 160)
    assert max(sides) == limit and len(sides) > 4
