"""Layers for CUDA: the results of the plain ones, with plain torch for operators and with the kernels interpreted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from ldm_core.acceleration.cuda import blocks, operators
from ldm_core.acceleration.cuda.layers import replace_layers
from ldm_core.acceleration.cuda.modules import AddedProduct, AttentionCore, PaddedConv2d
from ldm_core.networks import layers
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from tests import triton_interpreter
from tests.ldm_core.test_replay import KINDS, inputs
from tests.triton_interpreter import Interpreter

Network = TypeVar("Network", bound=nn.Module)

CONFIGS = KINDS | {
    "narrower below, so that a block with a skip has no shortcut": replace(KINDS["text"], block_out_channels=(64, 32)),
    "several transformer blocks over the context alone": replace(
        KINDS["text"], transformer_layers_per_block=2, only_cross_attention=True
    ),
    "few channels": replace(KINDS["text"], in_channels=9, out_channels=3),
    "attention without a norm": replace(
        KINDS["no context, residual resizing"], attn_norm_num_groups=None, resnet_time_scale_shift="scale_shift"
    ),
}
FIRST_STAGE = AutoencoderConfig(
    latent_channels=4, block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=16,
    down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
)  # fmt: skip
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-6, torch.bfloat16: 4e-2, torch.float16: 6e-3}
OTHERS = [kind for kind in CONFIGS if kind != "text"]


def unets(kind: str, dtype: torch.dtype = torch.float32) -> tuple[UNet, UNet]:
    """The plain network, and one for CUDA of the same weights."""
    torch.manual_seed(0)
    network = UNet(CONFIGS[kind]).to(dtype).eval().requires_grad_(False)
    return network, for_cuda(network)


def for_cuda(network: Network) -> Network:
    other = copy.deepcopy(network)
    replace_layers(other)
    return other


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Interpreter]:
    pytest.importorskip("triton", reason="Triton is for Linux")
    with triton_interpreter.started() as interpreter:
        yield interpreter


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within the rounding of their dtype; results are about one."""
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", CONFIGS)
@torch.inference_mode()
def test_a_unet_gives_what_the_plain_one_gives(kind: str, dtype: torch.dtype) -> None:
    network, other = unets(kind, dtype)
    for rows, size in ((1, (8, 8)), (3, (10, 6)), (2, (5, 7))):
        given = inputs(network, rows, size, dtype=dtype)
        before = copy.deepcopy(given)
        assert_near(other(*given), network(*given))
        for tensor, same in zip(given, before, strict=True):  # blocks write over tensors of their own alone
            assert tensor is None or same is None or torch.equal(tensor, same)


@torch.inference_mode()
def interpreted_unet(kind: str, rows: int, dtype: torch.dtype) -> Tensor:
    _, other = unets(kind, dtype)
    return other(*inputs(other, rows, (4, 4), dtype=dtype))


@pytest.mark.parametrize("kind", ["text", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)])
def test_so_do_the_kernels(interpreted: Interpreter, kind: str) -> None:
    network, _ = unets(kind)
    assert_near(interpreted(interpreted_unet, kind, 2, torch.float32), network(*inputs(network, 2, (4, 4))))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_do_the_kernels_in_half_precision(interpreted: Interpreter, dtype: torch.dtype) -> None:
    network, _ = unets("text", dtype)
    expected = network(*inputs(network, 2, (4, 4), dtype=dtype))
    assert_near(interpreted(interpreted_unet, "text", 2, dtype), expected)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("entries", [None, 64])
@torch.inference_mode()
def test_a_first_stage_gives_what_the_plain_one_gives(entries: int | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = replace(FIRST_STAGE, num_vq_embeddings=entries, vq_embed_dim=None if entries is None else 4)
    vae = Autoencoder(config).to(dtype).eval().requires_grad_(False)
    encoder, decoder = for_cuda(vae.encoder), for_cuda(vae.decoder)
    for side in (16, 24):
        image, latents = torch.randn(2, 3, side, side).to(dtype), torch.randn(2, 4, side // 4, side // 4).to(dtype)
        assert_near(encoder(image), vae.encoder(image))
        assert_near(decoder(latents), vae.decoder(latents))


@torch.inference_mode()
def test_weights_that_others_share_stay_as_they_are() -> None:
    network, _ = unets("text")
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    shared = UNet(network.config)
    shared.load_state_dict(network.state_dict(), assign=True)
    replace_layers(shared)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_every_product_convolution_and_attention_is_a_module_of_its_own() -> None:
    _, other = unets("text")
    kinds = {type(module) for module in other.modules() if not [*module.children()]}
    assert kinds >= {nn.Conv2d, nn.Linear, AddedProduct, AttentionCore}
    plain_kinds = layers.ResnetBlock | layers.Attention | layers.SpatialTransformer | layers.GEGLU | nn.GroupNorm
    assert not [module for module in other.modules() if isinstance(module, plain_kinds)]


@torch.inference_mode()
def test_convolutions_of_few_channels_take_eight() -> None:
    plain_conv = nn.Conv2d(9, 3, 3, padding=1)
    expected = plain_conv(x := torch.randn(2, 9, 5, 5))
    padded = PaddedConv2d(plain_conv)
    assert padded.conv.weight.shape[:2] == (8, 16)
    torch.testing.assert_close(padded(x), expected)


@torch.inference_mode()
def test_attention_by_itself_leaves_its_input_alone() -> None:
    attention = layers.SpatialAttention(32, 2, groups=8, eps=1e-5)
    other = blocks.SpatialAttention(attention)
    x = torch.randn(2, 32, 4, 6).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    torch.testing.assert_close(other(x), attention(x))
    assert torch.equal(x, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_triton_does_not_work_plain_torch_computes_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert not operators.triton_works(torch.device("cuda", 77))
    assert caplog.text.count("Triton does not work on cuda:77") == 1
    assert operators.fingerprint(torch.device("cuda", 77)) == "no Triton"


def warnings_of(dtype: torch.dtype) -> list[str]:
    """What the log says when GEGLU is called twice in that dtype."""
    said: list[str] = []
    operators.logger.warning = lambda text, *values: said.append(text % values)  # type: ignore[method-assign,misc]
    x = torch.randn(2, 8, dtype=dtype)
    for _ in range(2):
        torch.testing.assert_close(operators.geglu(x), x[:, :4] * nn.functional.gelu(x[:, 4:]))
    return said


def test_what_no_kernel_takes_is_computed_and_named_once(interpreted: Interpreter) -> None:
    assert interpreted(warnings_of, torch.float64) == [
        "no kernel takes geglu of (8,) in torch.float64: plain torch computes it"
    ]
