"""The Triton kernels in Triton's interpreter: against torch in float64, and a row's independence of its company."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_core.acceleration.cuda import operators
from tests import triton_interpreter
from tests.triton_interpreter import Interpreter

pytest.importorskip("triton", reason="Triton is for Linux")

HALVES = (torch.bfloat16, torch.float16)
# (B, C, H, W), channels of a skip, groups. In slices: several slices, the last one shorter than the others
IN_REGISTERS = [(2, 32, 4, 4, 0, 8), (3, 30, 5, 7, 0, 5), (2, 40, 6, 3, 24, 4), (1, 16, 1, 1, 0, 8)]
IN_SLICES = [(2, 40, 13, 21, 24, 4), (2, 30, 5, 7, 0, 5), (1, 160, 12, 12, 0, 2), (1, 6, 17, 16, 0, 3)]
CASES = [("registers", shape) for shape in IN_REGISTERS] + [("slices", shape) for shape in IN_SLICES]
ROWS = 16


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Interpreter]:
    with triton_interpreter.started() as interpreter:
        yield interpreter


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def group_norm(where: str, *args: Any, **kwargs: Any) -> Tensor:
    """The kernel that keeps a block in registers, or the two that read slices."""
    from ldm_core.acceleration.cuda import launches  # by the interpreter's process alone

    with patch.object(launches, "IN_REGISTERS", 2**40 if where == "registers" else 0):
        return operators.group_norm(*args, **kwargs)


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[list[Any], dict[str, Any]]:
    """All that a GroupNorm takes."""
    rows, channels, height, width, skip_channels, groups = shape
    every = channels + skip_channels
    x, skip = (random(rows, c, height, width, seed=c, dtype=dtype) for c in (channels, skip_channels))
    weight, bias, add = random(every, dtype=dtype), random(every, seed=1, dtype=dtype), random(rows, every, seed=2)
    return [x, weight, bias, groups, 1e-5], {
        "skip": skip if skip_channels else None, "add": add.to(dtype), "silu": True,
        "scale_shift": random(rows, 2 * every, seed=3, dtype=dtype),
    }  # fmt: skip


def in_double(args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """torch's own operators in float64."""
    x, weight, bias, groups, eps = (each.double() if isinstance(each, Tensor) else each for each in args)
    given = {key: each.double() if isinstance(each, Tensor) else each for key, each in kwargs.items()}
    if given.get("skip") is not None:
        x = torch.cat([x, given["skip"]], dim=1)
    if given.get("add") is not None:
        x = x + given["add"][:, :, None, None]
    y = F.group_norm(x, groups, weight, bias, eps)
    if given.get("scale_shift") is not None:
        scale, shift = given["scale_shift"][:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return F.silu(y) if given.get("silu") else y


def assert_rounded(found: Tensor, wide: Tensor, dtype: torch.dtype) -> None:
    """Once and at the end. The interpreter cuts float32 off to bfloat16, which a GPU rounds to."""
    cut = (wide.contiguous().view(torch.int32) & ~0xFFFF).view(torch.float32) if dtype == torch.bfloat16 else wide
    assert found.dtype == dtype
    assert torch.equal(found, cut.to(dtype))


def test_the_interpreter_runs_the_kernels_and_a_cpu_otherwise_does_not(interpreted: Interpreter) -> None:
    assert interpreted(operators._has_kernel, torch.ones(1), "geglu")
    assert not operators._has_kernel(torch.ones(1), "geglu")


@pytest.mark.parametrize(("where", "shape"), CASES)
def test_group_norm(interpreted: Interpreter, where: str, shape: tuple[int, ...]) -> None:
    args, kwargs = operands(shape)
    found = interpreted(group_norm, where, *args, **kwargs)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), in_double(args, kwargs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["registers", "slices"])
@pytest.mark.parametrize("left_out", ["skip", "add", "scale_shift", "silu"])
def test_each_part_of_group_norm_may_be_left_out(interpreted: Interpreter, where: str, left_out: str) -> None:
    args, kwargs = operands((2, 16, 9, 15, 8 * (left_out != "skip"), 4))
    del kwargs[left_out]
    found = interpreted(group_norm, where, *args, **kwargs)
    torch.testing.assert_close(found.double(), in_double(args, kwargs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["registers", "slices"])
def test_one_vector_for_all_rows_and_vectors_that_lie_apart(interpreted: Interpreter, where: str) -> None:
    args, kwargs = operands((2, 16, 9, 15, 0, 4))
    kwargs["add"] = random(1, 16, seed=5)
    kwargs["scale_shift"] = random(2, 64, seed=6)[:, 16:48]
    found = interpreted(group_norm, where, *args, **kwargs)
    torch.testing.assert_close(found.double(), in_double(args, kwargs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["registers", "slices"])
def test_group_norm_keeps_its_digits_where_means_are_large(interpreted: Interpreter, where: str) -> None:
    x = 0.02 * random(1, 32, 17, 16) + 9
    args = [x, torch.ones(32), torch.zeros(32), 8, 1e-5]
    found = interpreted(group_norm, where, *args)
    torch.testing.assert_close(found.double(), in_double(args, {}), rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("where", ["registers", "slices"])
def test_half_precision_is_that_of_float32_rounded(interpreted: Interpreter, where: str, dtype: torch.dtype) -> None:
    args, kwargs = operands((2, 40, 9, 15, 24, 4), dtype)
    found = interpreted(group_norm, where, *args, **kwargs)
    wide = [each.float() if isinstance(each, Tensor) else each for each in args]
    wider = {key: each.float() if isinstance(each, Tensor) else each for key, each in kwargs.items()}
    assert_rounded(found, interpreted(group_norm, where, *wide, **wider), dtype)


@pytest.mark.parametrize("where", ["registers", "slices"])
def test_what_is_no_number_stays_in_its_group(interpreted: Interpreter, where: str) -> None:
    x = random(2, 64, 9, 15)
    x[0, 0, 0, 0] = float("nan")
    found = interpreted(group_norm, where, x, torch.ones(64), torch.zeros(64), 16, 1e-5, silu=True)
    assert found[0, :4].isnan().all()
    assert found[0, 4:].isfinite().all() and found[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("where", "shape"), [CASES[2], ("slices", (ROWS, 16, 9, 15, 8, 3))])
def test_an_image_has_the_same_bits_in_every_company_and_place(
    interpreted: Interpreter, where: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    (x, *rest), kwargs = operands((ROWS, *shape[1:]), dtype)
    x *= torch.logspace(-2, 2, ROWS)[:, None, None, None].to(dtype)

    def computed(rows: Tensor) -> Tensor:
        of_rows = {key: each[rows] if isinstance(each, Tensor) else each for key, each in kwargs.items()}
        return interpreted(group_norm, where, x[rows], *rest, **of_rows)

    everything = computed(torch.arange(ROWS))
    rolled = torch.arange(ROWS).roll(5)
    assert torch.equal(computed(rolled), everything[rolled])
    for count in (1, 2, 4, 8):
        assert torch.equal(computed(torch.arange(count, 2 * count)), everything[count : 2 * count])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(("where", "shape"), CASES)
def test_a_gpu_computes_what_the_interpreter_does(where: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    def moved(each: Any, rows: slice = slice(None)) -> Any:
        return each.cuda()[rows] if isinstance(each, Tensor) else each

    (x, *rest), kwargs = operands((ROWS, *shape[1:]), dtype)
    assert operators.triton_works(torch.device("cuda", 0))
    found = group_norm(where, moved(x), *map(moved, rest), **{key: moved(each) for key, each in kwargs.items()})
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(found.cpu().double(), in_double([x, *rest], kwargs), rtol=tolerance, atol=tolerance)
    for rows in (slice(3, 4), slice(4, 8), slice(8, 16)):
        of_rows = {key: moved(each, rows) for key, each in kwargs.items()}
        assert torch.equal(group_norm(where, moved(x, rows), *map(moved, rest), **of_rows), found[rows])


def layer_norm(x: Tensor, dtype: torch.dtype = torch.float32) -> list[Any]:
    """All that a LayerNorm takes."""
    width = x.shape[-1]
    weight, bias = random(width, seed=1, dtype=dtype), random(width, seed=2, dtype=dtype)
    return [x, weight, bias, 1e-5, random(width, seed=3)]


@pytest.mark.parametrize("width", [16, 40, 320])
def test_layer_norm(interpreted: Interpreter, width: int) -> None:
    for x in (random(3, 5, width) * 10 + 100, torch.zeros(2, width), random(width, 3).t()):
        _, weight, bias, eps, add = args = layer_norm(x)
        found = interpreted(operators.layer_norm, *args)
        expected = F.layer_norm((x + add).double(), (width,), weight.double(), bias.double(), eps)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    without = interpreted(operators.layer_norm, x, weight, bias, eps)
    expected = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), eps)
    torch.testing.assert_close(without.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 34), (7, 1024)])
def test_geglu(interpreted: Interpreter, shape: tuple[int, ...]) -> None:
    x = 3 * random(*shape)
    value, gate = x.double().chunk(2, dim=-1)
    found = interpreted(operators.geglu, x)
    torch.testing.assert_close(found.double(), value * F.gelu(gate), rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 40, 5, 7), (1, 130, 3, 3), (3, 4, 1, 1)])
def test_add_bias(interpreted: Interpreter, shape: tuple[int, ...], residual: bool) -> None:
    x, bias, other = random(*shape), random(shape[1], seed=1), random(*shape, seed=2)
    expected = x.double() + bias.double()[:, None, None] + (other.double() if residual else 0)
    found = interpreted(operators.add_bias, x, bias, other if residual else None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_works_on_tokens_rounds_once(interpreted: Interpreter, dtype: torch.dtype) -> None:
    x, image, bias = random(6, 48, dtype=dtype), random(2, 24, 3, 3, dtype=dtype), random(24, dtype=dtype)
    _, weight, offset, eps, add = layer_norm(x, dtype)
    normed = interpreted(operators.layer_norm, x, weight, offset, eps, add)
    wide = interpreted(operators.layer_norm, x.float(), weight.float(), offset.float(), eps, add)
    assert_rounded(normed, wide, dtype)
    assert_rounded(interpreted(operators.geglu, x), interpreted(operators.geglu, x.float()), dtype)
    found = interpreted(operators.add_bias, image, bias, image)
    assert_rounded(found, image.float() + bias.float()[:, None, None] + image.float(), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_has_the_same_bits_in_every_company_and_place(interpreted: Interpreter, dtype: torch.dtype) -> None:
    x = random(ROWS, 3, 80, dtype=dtype)
    _, *rest = layer_norm(x, dtype)
    image, bias = random(ROWS, 40, 3, 5, dtype=dtype), random(40, dtype=dtype)
    calls = [
        lambda rows: interpreted(operators.layer_norm, x[rows], *rest),
        lambda rows: interpreted(operators.geglu, x[rows]),
        lambda rows: interpreted(operators.add_bias, image[rows], bias, image[rows]),
    ]
    for call in calls:
        everything, rolled = call(torch.arange(ROWS)), torch.arange(ROWS).roll(5)
        assert torch.equal(call(rolled), everything[rolled])
        for count in (1, 2, 4, 8):
            assert torch.equal(call(torch.arange(count)), everything[:count])


def test_silu_and_gelu_far_from_zero(interpreted: Interpreter) -> None:
    far = torch.tensor([-1e30, -200.0, -88.0, -20.0, 20.0, 88.0, 200.0, 1e30])
    zeros = torch.zeros(1, 8, 1, 1)
    silu = interpreted(group_norm, "registers", zeros, torch.ones(8), far, 1, 1e-5, silu=True)[0, :, 0, 0]
    torch.testing.assert_close(silu, F.silu(far), rtol=1e-6, atol=1e-6)
    gated = interpreted(operators.geglu, torch.cat([torch.ones(8), far])[None])[0]
    torch.testing.assert_close(gated, F.gelu(far), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", [
    {"skip": torch.ones(2, 4, 3, 4)}, {"add": torch.ones(3, 8)}, {"scale_shift": torch.ones(2, 8)},
    {"skip": torch.ones(2, 4, 4, 4)}, {"add": torch.ones(2, 8, device="meta")},
])  # fmt: skip
def test_tensors_that_do_not_fit_each_other_are_refused(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="group_norm cannot take these tensors together"):
        operators.group_norm(torch.ones(2, 8, 4, 4), torch.ones(8), torch.ones(8), 2, 1e-5, **wrong)
    with pytest.raises(ValueError, match=r"layer_norm .* \(2, 8\) torch.float32 on cpu, \(9,\)"):
        operators.layer_norm(torch.ones(2, 8), torch.ones(9), torch.ones(9), 1e-5)
    with pytest.raises(ValueError, match="add_bias cannot take"):
        operators.add_bias(torch.ones(2, 8, 4, 4), torch.ones(8), torch.ones(2, 8, 4, 5))
    with pytest.raises(ValueError, match="geglu cannot take"):
        operators.geglu(torch.ones(2, 7))
