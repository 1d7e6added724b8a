"""How much memory do images of megapixels take, in windows and whole?

Networks of the published sizes with random weights: Stable Diffusion's decoder (KL, f = 8), and the LDM-4
super-resolution model (two steps and its VQ decoder). Each case is a process of its own; prints the most memory that it
took beyond its weights, and the time. The last line is JSON.

    python -m benchmarks.megapixel [--cases decode:1024:tiled ...] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from PIL import Image

from ldm_core.card import ModelCard
from ldm_core.generate import generate
from ldm_core.model import LatentDiffusion
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.conditioning import Condition
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from ldm_core.params import GenerationParams
from ldm_core.sampling.schedule import NoiseSchedule
from ldm_core.sampling.tiling import covering, tiled

CASES = tuple(
    f"{what}:{side}:{how}" for what in ("decode", "superres") for side in (1024, 2048) for how in ("tiled", "whole")
)
BSR_SR = UNetConfig(
    in_channels=6, out_channels=3, sample_size=64, block_out_channels=(160, 320, 320, 640),
    down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), mid_block_type="UNetMidBlock2D",
    attention_head_dim=32, cross_attention_dim=None,
)  # fmt: skip
VQ_F4 = AutoencoderConfig(
    latent_channels=3, block_out_channels=(128, 256, 512), down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=1.0, num_vq_embeddings=8192, vq_embed_dim=3,
)  # fmt: skip
NATIVE = {"decode": 512, "superres": 256}


def decoding(side: int, tile: int, dtype: torch.dtype) -> Callable[[], object]:
    """Latents of `side` pixels through Stable Diffusion's decoder."""
    autoencoder = Autoencoder(AutoencoderConfig()).to(dtype).eval()
    z = torch.randn(1, 4, side // 8, side // 8, dtype=dtype)
    tiling = covering(side // 8, side // 8, tile // 8)
    if tiling is None:
        return lambda: autoencoder.decode(z)
    return lambda: tiled(z, lambda part, _: autoencoder.decode(part).float(), tiling, 8)


def enlarging(side: int, tile: int, dtype: torch.dtype) -> Callable[[], object]:
    """Two steps from a quarter of `side` pixels to `side`."""
    card = ModelCard(
        id="bsr_sr", tasks=("superres",), native_size=(256, 256), size_multiple=32, max_pixels=side * side,
        default_steps=2, default_guidance_scale=1.0, scale=4, tile=tile,
    )  # fmt: skip
    model = LatentDiffusion(
        card=card, unet=UNet(BSR_SR).to(dtype).eval(), autoencoder=Autoencoder(VQ_F4).to(dtype).eval(),
        condition=Condition(), schedule=NoiseSchedule.from_config({}), low_res_schedule=None,
        device=torch.device("cpu"), dtype=dtype,
    )  # fmt: skip
    params = GenerationParams(task="superres", width=side, height=side, steps=2, guidance_scale=1.0, seed=0)
    small = Image.effect_noise((side // 4, side // 4), 80)
    return lambda: generate(model, params, small, rows=1)


def measure(case: str, dtype: str) -> dict[str, object]:
    """One case, in this process."""
    what, side, how = case.split(":")
    tile = 2 * NATIVE[what] if how == "tiled" else 0
    build = decoding if what == "decode" else enlarging
    run = build(int(side), tile, getattr(torch, dtype))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with torch.inference_mode():
        run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"case": case, "dtype": dtype, "gib": round(peak / 2**20, 2), "s": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="WHAT:SIDE:tiled|whole")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.dtype)))
        return
    results = []
    print(f"{'':24}{'beyond the weights':>20}{'time':>10}")
    for case in args.cases:
        command = [sys.executable, "-m", "benchmarks.megapixel", "--one", case, "--dtype", args.dtype]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        if shown.returncode:
            results.append({"case": case, "dtype": args.dtype, "failed": shown.returncode})
            print(f"{case:24}{'failed':>20}", flush=True)
            continue
        results.append(json.loads(shown.stdout.splitlines()[-1]))
        print(f"{case:24}{results[-1]['gib']:>16} GiB{results[-1]['s']:>8} s", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
