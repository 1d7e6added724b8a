"""The compiled kernels against torch's operators in float64, and a row's independence of its company."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_core.acceleration import kernels, native

needs_kernels = pytest.mark.skipif(not native.present(), reason="not compiled here")
SHAPES = ((1, 6, 1, 1, 3), (2, 64, 16, 16, 16), (3, 30, 5, 7, 5), (2, 320, 64, 33, 32))  # (B, C, H, W), groups
EPS = 1e-5


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean


def group_norm(groups: int, weight: Tensor, bias: Tensor) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, len(weight), eps=EPS)
    norm.weight, norm.bias = nn.Parameter(weight), nn.Parameter(bias)
    return norm


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_they_were_compiled_where_there_is_a_compiler() -> None:
    assert native.present()


@needs_kernels
def test_those_of_another_version_are_not_called(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert native.library.__wrapped__() is None
    assert "install the package again" in caplog.text


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("laid_out", [torch.contiguous_format, torch.channels_last])
def test_group_norm(shape: tuple[int, int, int, int, int], silu: bool, laid_out: torch.memory_format) -> None:
    *size, groups = shape
    x = random(*size).to(memory_format=laid_out)
    weight, bias = random(size[1], seed=1), random(size[1], seed=2)
    found = kernels.group_norm(x, group_norm(groups, weight, bias), silu=silu)
    expected = F.group_norm(x.double(), groups, weight.double(), bias.double(), EPS)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), F.silu(expected) if silu else expected, rtol=2e-6, atol=2e-6)


@needs_kernels
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_in_bfloat16_is_that_of_float32_rounded(silu: bool) -> None:
    x, weight, bias = random(2, 64, 9, 9).bfloat16(), random(64, seed=1).bfloat16(), random(64, seed=2).bfloat16()
    found = kernels.group_norm(x, group_norm(16, weight, bias), silu=silu)
    wide = kernels.group_norm(x.float(), group_norm(16, weight.float(), bias.float()), silu=silu)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wide.bfloat16())


@needs_kernels
def test_what_is_no_number_stays_none() -> None:
    x = random(2, 64, 4, 4)
    x[0, 0, 0, 0] = float("nan")
    found = kernels.group_norm(x, nn.GroupNorm(16, 64), silu=True)
    assert found[0, :4].isnan().all()
    assert found[0, 4:].isfinite().all()
    assert found[1].isfinite().all()
    assert kernels.geglu(torch.tensor([[1.0, 2.0, float("nan"), 1.0]])).isnan().tolist() == [[True, False]]


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", native.DTYPES)
def test_a_row_is_the_same_alone_and_in_company(threads: int, dtype: torch.dtype) -> None:
    x, hidden = random(7, 96, 13, 11).to(dtype), random(35, 2 * 90, seed=4).to(dtype)
    norm = group_norm(32, random(96, seed=1).to(dtype), random(96, seed=2).to(dtype))
    alone = [kernels.group_norm(x[i : i + 1], norm, silu=True) for i in range(len(x))]
    gated = [kernels.geglu(hidden[i : i + 1]) for i in range(len(hidden))]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert torch.equal(kernels.group_norm(x, norm, silu=True), torch.cat(alone))
        assert torch.equal(kernels.geglu(hidden), torch.cat(gated))
    finally:
        torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 34), (2, 64, 1024)])
def test_geglu(shape: tuple[int, ...]) -> None:
    x = 3 * random(*shape)
    value, gate = x.double().chunk(2, dim=-1)
    torch.testing.assert_close(kernels.geglu(x).double(), value * F.gelu(gate), rtol=2e-6, atol=5e-6)


@needs_kernels
@pytest.mark.parametrize("dtype", native.DTYPES)
@pytest.mark.parametrize("width", [16, 64, 320])
@torch.inference_mode()
def test_layer_norm(width: int, dtype: torch.dtype) -> None:
    norm = nn.LayerNorm(width)
    norm.weight.copy_(torch.randn(width))
    norm.bias.copy_(torch.randn(width))
    norm.to(dtype)
    for x in (torch.randn(3, 5, width) * 10 + 100, torch.zeros(2, width), torch.randn(width, 7).t()):
        x = x.to(dtype)
        found = kernels.layer_norm(x, norm)
        double = F.layer_norm(x.double(), (width,), norm.weight.double(), norm.bias.double(), norm.eps)
        assert found.shape == x.shape
        torch.testing.assert_close(found, double.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)
        assert torch.equal(kernels.layer_norm(x[1:2], norm), found[1:2])


@needs_kernels
def test_silu_and_gelu_far_from_zero() -> None:
    far = torch.tensor([-1e30, -200.0, -88.0, -20.0, 20.0, 88.0, 200.0, 1e30])
    bias = far.repeat(4)
    silu = kernels.group_norm(torch.zeros(1, 32, 1, 1), group_norm(1, torch.ones(32), bias), silu=True)[0, :, 0, 0]
    torch.testing.assert_close(silu, F.silu(bias), rtol=1e-6, atol=1e-6)
    gated = kernels.geglu(torch.cat([torch.ones(8), far])[None])[0]
    torch.testing.assert_close(gated, F.gelu(far), rtol=1e-6, atol=1e-6)
