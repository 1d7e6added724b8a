"""Replayed calls give the bytes of plain ones, whatever came in between."""

from __future__ import annotations

import copy
import random
import threading
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ldm_core.acceleration import native, tape
from ldm_core.acceleration.accelerate import accelerate
from ldm_core.acceleration.graph import GraphRecorder, Graphs
from ldm_core.acceleration.layers import GroupNorm, PackedConv2d
from ldm_core.acceleration.replay import Record, Replayed
from ldm_core.acceleration.tape import _places, record
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig

CALLS = 5  # of a shape: plain, recorded, and repeated
ATTENDS = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
KINDS = {
    "text": UNetConfig(
        block_out_channels=(32, 64), layers_per_block=1, down_block_types=(ATTENDS[0], "DownBlock2D"),
        up_block_types=("UpBlock2D", ATTENDS[1]), cross_attention_dim=48, attention_head_dim=2, norm_num_groups=16,
    ),
    "class, linear projections": UNetConfig(
        block_out_channels=(32, 64), layers_per_block=1, down_block_types=("DownBlock2D", ATTENDS[0]),
        up_block_types=(ATTENDS[1], "UpBlock2D"), cross_attention_dim=48, attention_head_dim=2, norm_num_groups=16,
        num_class_embeds=10, use_linear_projection=True,
    ),
    "no context, residual resizing": UNetConfig(
        block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=32, norm_num_groups=16,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"), mid_block_type="UNetMidBlock2D",
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=None,
        downsample_type="resnet", upsample_type="resnet",
    ),
    "scaled and shifted by the timestep": UNetConfig(
        block_out_channels=(32, 64), layers_per_block=1, down_block_types=(ATTENDS[0], "DownBlock2D"),
        up_block_types=("UpBlock2D", ATTENDS[1]), cross_attention_dim=48, attention_head_dim=2, norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
    ),
}  # fmt: skip


def network(kind: str, dtype: torch.dtype = torch.float32) -> UNet:
    torch.manual_seed(0)
    return accelerate(UNet(KINDS[kind]).to(dtype))


def inputs(
    unet: UNet, rows: int, size: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor | None, ...]:
    made = torch.Generator().manual_seed(seed)
    config = unet.config
    x = torch.randn(rows, config.in_channels, *size, generator=made).to(dtype)
    t = torch.randint(1000, (rows,), generator=made)
    width, classes = config.cross_attention_dim, config.num_class_embeds
    context = None if width is None else torch.randn(rows, 7, width, generator=made).to(dtype)
    return x, t, context, torch.randint(classes, (rows,), generator=made) if classes else None


def recordings(call: Callable[..., Tensor]) -> list[int]:
    """Of each shape."""
    assert isinstance(call, Replayed)
    return [len(shape.recordings) for shape in call._shapes._kept.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_repeated_call_gives_the_bytes_of_a_plain_one(kind: str, dtype: torch.dtype) -> None:
    unet = network(kind, dtype)
    shapes = [(1, (8, 8)), (2, (8, 8)), (3, (10, 6))]
    work = [inputs(unet, *shape, seed, dtype) for seed in range(CALLS) for shape in shapes]  # the shapes take turns
    found = [unet(*each) for each in work]
    assert recordings(unet.forward) == [1] * len(shapes)
    for each, result in zip(work, found, strict=True):
        assert torch.equal(copy.deepcopy(unet)(*each), result)  # a copy has nothing recorded


@pytest.mark.parametrize("entries", [None, 64])
@torch.inference_mode()
def test_so_do_a_first_stages_calls(entries: int | None) -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        latent_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        num_vq_embeddings=entries, vq_embed_dim=None if entries is None else 4,
    )  # fmt: skip
    vae = accelerate(Autoencoder(config))
    images, latents = torch.randn(CALLS, 1, 3, 16, 16), torch.randn(CALLS, 1, 4, 8, 8)
    found = [(vae.encode(x), vae.decode(z)) for x, z in zip(images, latents, strict=True)]
    assert recordings(vae.encoder.forward) == recordings(vae.decoder.forward) == [1]
    for x, z, (encoded, decoded) in zip(images, latents, found, strict=True):
        plain = copy.deepcopy(vae)
        assert torch.equal(plain.encode(x), encoded)
        assert torch.equal(plain.decode(z), decoded)


def test_results_may_be_written_to_outside_inference_mode() -> None:
    unet = network("text")
    given = inputs(unet, 2, (8, 8))
    for _ in range(CALLS):
        out = unet(*given)
        assert not out.requires_grad
        out.add_(1)  # torch refuses this for a tensor of inference mode
    assert recordings(unet.forward) == [1]


@torch.inference_mode()
def test_the_order_in_memory_of_what_comes_in_changes_nothing() -> None:
    unet = network("text")
    x, *rest = inputs(unet, 2, (8, 8))
    assert x is not None
    expected = unet(x, *rest)
    wide = torch.zeros(2, *x.shape[1:3], 2 * x.shape[3] + 1)
    wide[..., 1::2] = x  # neither dense nor aligned
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, wide[..., 1::2]):
        assert all(torch.equal(unet(other, *rest), expected) for _ in range(CALLS))


def test_threads_do_not_meet_in_one_recording() -> None:
    unet = network("text")
    with torch.inference_mode():
        work = [inputs(unet, 2, (8, 8), seed) for seed in range(4)]
        expected = [copy.deepcopy(unet)(*each) for each in work]
    wrong: list[int] = []

    def calls(i: int) -> None:
        with torch.inference_mode():
            wrong.extend(i for _ in range(40) if not torch.equal(unet(*work[i]), expected[i]))

    threads = [threading.Thread(target=calls, args=[i]) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def repeated(call: Callable[..., Tensor], record: Record = record) -> tuple[Replayed, bool]:
    """Whether all of its calls gave what a plain call does."""
    replayed = Replayed(call, record)
    with torch.inference_mode():
        work = [torch.full((4, 4), float(i)) for i in range(CALLS)]
        return replayed, all(torch.equal(replayed(x), call(x)) for x in work)


CALLABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "reads a number": lambda x: x * x.sum().item(),
    "writes in place": lambda x: (x * 2).add_(1),
    "gives back what it was given": lambda x: x.t(),
    "packs a weight": lambda x: x + torch.ops.mkldnn._reorder_linear_weight(x.bfloat16(), 4).to_dense().float(),
}


@pytest.mark.parametrize("kind", CALLABLE)
def test_what_cannot_be_repeated_is_called(kind: str) -> None:
    kept, right = repeated(CALLABLE[kind])
    assert right
    assert recordings(kept) == [0]


def several_results(x: Tensor) -> Tensor:
    values, places = x.reshape(2, 8).max(dim=1)
    return values.expand(2, 2).repeat(1, 2) + places.float().sum()


def views(x: Tensor) -> Tensor:
    return torch.cat([torch.cat([x[:0], x[:0]]), x.t(), x[:, 1:3].mT * 2])


def result_before_the_last(x: Tensor) -> Tensor:
    first = x + 1
    _ = (x * 2) @ (x * 3)
    return first


@pytest.mark.parametrize("call", [several_results, views, result_before_the_last])
def test_what_can_be_repeated_is(call: Callable[[Tensor], Tensor]) -> None:
    kept, right = repeated(call)
    assert right
    assert recordings(kept) == [1]


@pytest.mark.parametrize(("limit", "size"), [("ROOM", 2 * 64), ("SMALL", 2 * 64 - 1)])
def test_what_takes_or_keeps_too_much_memory_is_called(limit: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, limit, size)
    kept, right = repeated(lambda x: (x + 1) * 2 + 3)  # three results of 64 bytes, two of them at once
    assert right
    assert recordings(kept) == [0]
    monkeypatch.setattr(tape, limit, 3 * 64 if limit == "ROOM" else 2 * 64)
    kept, right = repeated(lambda x: (x + 1) * 2 + 3)
    assert right
    assert recordings(kept) == [1]


def test_weights_that_were_packed_for_a_shape_count_as_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, size = PackedConv2d(nn.Conv2d(8, 8, 3, stride=2, padding=1)), 8 * 2 * 2 * 4
    for limit, expected in ((size, [0]), (size + layer.weight.nbytes, [1])):
        kept = Replayed(layer, record)
        monkeypatch.setattr(tape, "SMALL", limit)
        with torch.inference_mode():
            for x in torch.randn(CALLS, 1, 8, 4, 4):
                assert torch.equal(kept(x), layer(x))
        assert recordings(kept) == expected


@pytest.mark.skipif(not native.present(), reason="not compiled here")
@torch.inference_mode()
def test_what_has_become_too_large_is_no_longer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "ROOM", 1000)
    norm = GroupNorm(nn.GroupNorm(8, 16))
    results: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def call(x: Tensor) -> Tensor:
        for _ in range(4):
            x = norm(x)
            results.append(weakref.ref(x))
            alive.append(sum(ref() is not None for ref in results))
        return x

    kept = Replayed(call, record)
    for x in torch.randn(CALLS, 1, 16, 8, 8):  # 4 KiB each
        assert torch.equal(kept(x), norm(norm(norm(norm(x)))))
    assert max(alive) <= 2  # as in a plain call: the one before, while the next is computed


def test_an_error_while_it_is_recorded_is_the_callers() -> None:
    broken = [True]

    def call(x: Tensor) -> Tensor:
        if broken[0]:
            raise ValueError("not now")
        return nn.functional.silu(x)

    kept = Replayed(call, record)
    with torch.inference_mode():
        for _ in range(3):
            with pytest.raises(ValueError, match="not now"):
                kept(torch.ones(2))
        broken[0] = False
        assert all(torch.equal(kept(x), call(x)) for x in torch.randn(CALLS, 2))
        assert recordings(kept) == [0]  # it has had its chance


def test_a_call_that_cannot_be_captured_is_made_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Graphs, "capture", capture)
    recorder = GraphRecorder(torch.device("cuda"))
    kept, right = repeated(lambda x: x + 1, recorder)
    assert right
    assert recordings(kept) == [0]
    assert caplog.text.count("not captured as a CUDA graph: CUDA out of memory") == 1


def test_no_two_that_are_needed_at_once_share_memory() -> None:
    chance = random.Random(0)
    for _ in range(50):
        needs = {}
        for key in range(40):
            first = chance.randrange(50)
            needs[key] = chance.randrange(300), first, chance.randrange(first, 50)
        places, size = _places(needs)
        for step in range(50):
            used = sorted((places[k], places[k] + n) for k, (n, first, last) in needs.items() if first <= step <= last)
            assert all(end <= begin for (_, end), (begin, _) in pairwise(used))
            assert all(begin % 64 == 0 and end <= size for begin, end in used)
        assert size < sum(n + 64 for n, *_ in needs.values())
