"""Our networks and DDIM steps against diffusers', on random weights of shrunk SD 1.x topologies, in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ldm_core.acceleration.accelerate import accelerate
from ldm_core.checkpoints.names import unet_source
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from ldm_core.sampling.plan import MEMORY, Plan, guide, update
from ldm_core.sampling.samplers import make_plan
from ldm_core.sampling.schedule import NoiseSchedule

SD1 = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
TOLERANCE = 1e-4
WAYS: dict[str, Callable[[Any], Any]] = {"plain": lambda network: network, "accelerated": accelerate}


def peer_unet(in_channels: int, layers: int = 2) -> diffusers.UNet2DConditionModel:
    """SD 1.x: four levels, the last without attention, two blocks a level; 32 wide instead of 320."""
    torch.manual_seed(0)
    peer = diffusers.UNet2DConditionModel(
        in_channels=in_channels,
        sample_size=16,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=layers,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    return peer.eval().requires_grad_(False)


def our_unet(peer: diffusers.UNet2DConditionModel) -> UNet:
    unet = UNet(UNetConfig.from_json(dict(peer.config)))
    unet.load_state_dict(peer.state_dict())
    return unet.eval().requires_grad_(False)


@pytest.mark.parametrize("in_channels", [4, 9], ids=["sd1", "sd-inpainting"])
@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("way", WAYS)
def test_unet_agrees(in_channels: int, side: int, way: str) -> None:
    peer = peer_unet(in_channels)
    x, context = torch.randn(3, in_channels, side, side), torch.randn(3, 7, 32)
    t = torch.tensor([1, 500, 999])
    ours = WAYS[way](our_unet(peer))
    for _ in range(3):  # plain, recorded, replayed
        assert (ours(x, t, context) - peer(x, t, context).sample).abs().max() <= TOLERANCE


def test_a_network_of_shapes_alone_runs() -> None:
    with torch.device("meta"), torch.no_grad():  # to count its arithmetic
        unet = UNet(UNetConfig.from_json(dict(peer_unet(4).config)))
        assert unet(torch.empty(2, 4, 16, 16), torch.empty(2), torch.empty(2, 7, 32)).shape == (2, 4, 16, 16)


def test_unet_with_class_labels_agrees() -> None:
    torch.manual_seed(0)
    peer = diffusers.UNet2DConditionModel(
        in_channels=7,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        norm_num_groups=16,
        num_class_embeds=1000,
        only_cross_attention=(True, False),
        use_linear_projection=True,
    ).eval()
    x, context, t = torch.randn(2, 7, 16, 16), torch.randn(2, 5, 32), torch.tensor([3, 800])
    labels = torch.tensor([0, 20])
    with torch.inference_mode():
        unet = our_unet(peer)
        for times in (t, t[:1].expand(2)):  # also one timestep with two labels
            expected = peer(x, times, context, class_labels=labels).sample
            assert (unet(x, times, context, labels) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("only_cross", [(False, True), True], ids=["last level", "everywhere"])
@torch.inference_mode()
def test_unet_with_other_blocks_at_each_level_agrees(only_cross: bool | tuple[bool, ...]) -> None:
    """The middle block has self-attention even where no level has it."""
    torch.manual_seed(0)
    peer = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=(1, 3),
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
        only_cross_attention=only_cross,
    ).eval()
    x, context, t = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24), torch.tensor([3, 800])
    unet = our_unet(peer)
    assert (unet(x, t, context) - peer(x, t, context).sample).abs().max() <= TOLERANCE
    source = unet_source(unet.config)
    numbers = [
        source(f"{block}.resnets.0.conv1.weight").key.split(".")[:2] for block in ("down_blocks.1", "up_blocks.1")
    ]
    assert numbers == [["input_blocks", "3"], ["output_blocks", "4"]]  # as the research code counts them


@pytest.mark.parametrize(
    ("blocks", "resample"),
    [
        (("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), "conv"),
        (("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), "resnet"),
    ],
    ids=["unconditional", "ldm-inpainting"],
)
@pytest.mark.parametrize("side", [(16, 16), (24, 16)])
@torch.inference_mode()
def test_unet_without_context_agrees(blocks: tuple[str, ...], resample: str, side: tuple[int, int]) -> None:
    """The U-Nets of the paper that attend to the latents alone."""
    torch.manual_seed(0)
    peer = diffusers.UNet2DModel(
        in_channels=7,
        out_channels=3,
        block_out_channels=(32, 64, 96),
        down_block_types=blocks,
        up_block_types=tuple(block.replace("Down", "Up") for block in blocks[::-1]),
        downsample_type=resample,
        upsample_type=resample,
        attention_head_dim=16,
        norm_num_groups=16,
    ).eval()
    config = UNetConfig.from_json(dict(peer.config))
    ours = UNet(config)
    ours.load_state_dict(peer.state_dict())
    x, t = torch.randn(2, 7, *side), torch.tensor([1, 900])
    assert (ours(x, t) - peer(x, t).sample).abs().max() <= TOLERANCE
    assert UNetConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("way", WAYS)
def test_vq_autoencoder_agrees(way: str) -> None:
    torch.manual_seed(0)
    peer = diffusers.VQModel(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=2,
        latent_channels=3,
        num_vq_embeddings=512,
        norm_num_groups=16,
        scaling_factor=0.5,
    ).eval()
    torch.nn.init.normal_(peer.quantize.embedding.weight)
    config = AutoencoderConfig.from_json(dict(peer.config))
    ours = Autoencoder(config)
    ours.load_state_dict(peer.state_dict())
    ours = WAYS[way](ours)
    x = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.inference_mode():
        mean, std = ours.moments(x)
        latents = peer.encode(x).latents
        assert (mean - latents * 0.5).abs().max() <= TOLERANCE and not std.any()
        assert (ours.decode(mean) - peer.decode(latents).sample).abs().max() <= TOLERANCE
        smooth = ours.decode(mean, quantize=False)
        assert (smooth - peer.decode(latents, force_not_quantize=True).sample).abs().max() <= TOLERANCE
    assert AutoencoderConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("levels", [3, 4], ids=["f4", "f8"])
@pytest.mark.parametrize("way", WAYS)
def test_autoencoder_agrees(levels: int, way: str) -> None:
    torch.manual_seed(0)
    peer = diffusers.AutoencoderKL(
        block_out_channels=(32, 64, 64, 64)[:levels],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        norm_num_groups=16,
    ).eval()
    ours = Autoencoder(AutoencoderConfig.from_json(dict(peer.config)))
    ours.load_state_dict(peer.state_dict())
    ours = WAYS[way](ours)
    x = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.inference_mode():
        mean, logvar = ours.posterior(x)
        posterior = peer.encode(x).latent_dist
        assert (mean - posterior.mean).abs().max() <= TOLERANCE
        assert (logvar - posterior.logvar).abs().max() <= TOLERANCE
        z = posterior.mean * ours.config.scaling_factor
        assert (ours.decode(z) - peer.decode(posterior.mean).sample).abs().max() <= TOLERANCE


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("steps", "offset", "one", "eta"), [(20, 1, False, 0.0), (7, 0, True, 0.6), (50, 1, False, 1.0)]
)
@torch.inference_mode()
def test_guided_ddim_agrees_at_every_step(
    spacing: str, prediction_type: str, steps: int, offset: int, one: bool, eta: float
) -> None:
    config: dict[str, Any] = {
        **SD1,
        "prediction_type": prediction_type,
        "timestep_spacing": spacing,
        "steps_offset": offset,
        "set_alpha_to_one": one,
    }
    scheduler = diffusers.DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    plan = make_plan(NoiseSchedule.from_config({"_class_name": "DDIMScheduler", **config}), "ddim", steps, eta)
    assert plan.t.tolist() == scheduler.timesteps.tolist()

    peer = peer_unet(4, layers=1)
    ours = accelerate(our_unet(peer))
    context, scale = torch.randn(2, 5, 32), 5.0
    x = torch.randn(1, 4, 8, 8)
    history = torch.zeros(1, MEMORY, 4, 8, 8)
    for i, t in enumerate(scheduler.timesteps):
        noise = torch.randn(x.shape)
        peer_out = peer(x.expand(2, -1, -1, -1), t, context).sample
        peer_out = peer_out[:1] + scale * (peer_out[1:] - peer_out[:1])
        peer_x = scheduler.step(peer_out, t, x, eta=eta, variance_noise=noise if eta else None).prev_sample
        out = ours(x.expand(2, -1, -1, -1), plan.t[i : i + 1].expand(2), context)
        out = guide(out[:1], out[1:], torch.tensor([scale]))
        x, _, history = update(x, out, history, noise, *line(plan, i), prediction_type)
        assert (x - peer_x).abs().max() <= TOLERANCE, f"step {i} of {steps}"


def line(plan: Plan, i: int) -> tuple[Tensor, Tensor]:
    return plan.alpha_bar[i : i + 1], plan.weights[i : i + 1]


@pytest.mark.parametrize("steps", [1, 3, 20, 50, 250, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_timesteps_and_alpha_bars_are_those_of_diffusers(steps: int, spacing: str, beta_schedule: str) -> None:
    config = {"beta_schedule": beta_schedule, "timestep_spacing": spacing}
    scheduler = diffusers.DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    schedule = NoiseSchedule.from_config(config)
    assert torch.allclose(schedule.alpha_bar, scheduler.alphas_cumprod, atol=1e-6)
    assert schedule.timesteps(steps)[0] == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [333, 501, 600, 777])
def test_every_step_count_covers_the_schedule(steps: int) -> None:
    """With "leading" the plain rule would start 600 of 1000 steps at t = 599, from pure noise."""
    visited, following = NoiseSchedule.from_config({**SD1, "timestep_spacing": "leading"}).timesteps(steps)
    assert visited[0] >= 990 and following[-1] == -1
    assert len(visited) == len(set(visited)) == steps


def test_zero_terminal_snr_is_that_of_diffusers() -> None:
    config = {**SD1, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    expected = diffusers.DDIMScheduler(**config).alphas_cumprod
    assert torch.allclose(NoiseSchedule.from_config(config).alpha_bar, expected, atol=1e-6)
