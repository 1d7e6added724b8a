"""PSNR, SSIM, the seam measure and intervals against values known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.quality import border_contrast, psnr, share, ssim

GREY = np.full((32, 32, 3), 100, np.uint8)
NOISY = (np.random.default_rng(0).integers(-20, 21, (32, 32, 3)) + 100).astype(np.uint8)


def test_psnr_of_a_constant_difference() -> None:
    assert psnr(GREY, GREY + 10) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(GREY, GREY) == math.inf


def test_psnr_looks_only_where_it_is_told_to() -> None:
    changed, where = GREY.copy(), np.zeros((32, 32), np.bool_)
    changed[:16] = 0
    where[16:] = True
    assert psnr(GREY, changed, where) == math.inf
    assert psnr(GREY, changed, ~where) == pytest.approx(20 * math.log10(255 / 100))


def test_ssim_is_one_for_equals_symmetric_and_falls_with_noise() -> None:
    assert ssim(NOISY, NOISY) == pytest.approx(1)
    assert ssim(GREY, NOISY) == pytest.approx(ssim(NOISY, GREY))
    fainter = ((NOISY.astype(int) + 100) // 2).astype(np.uint8)
    assert ssim(GREY, NOISY) < ssim(GREY, fainter) < 1


def test_ssim_of_two_constants_is_its_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    assert ssim(GREY, GREY + 50) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_border_contrast_is_the_step_across_the_masks_border() -> None:
    mask = np.zeros((32, 32), np.bool_)
    mask[8:16, 8:16] = True
    picture = GREY.copy()
    assert border_contrast(picture, mask) == 0
    picture[mask] = 130
    assert border_contrast(picture, mask) == 30


def test_share_has_wilsons_interval() -> None:
    found = share(190, 200)
    assert found["share"] == 0.95
    assert (found["low"], found["high"]) == (pytest.approx(0.9104, abs=1e-4), pytest.approx(0.9726, abs=1e-4))
    assert share(0, 0)["share"] is None and share(5, 5)["high"] == pytest.approx(1)
