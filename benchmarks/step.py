"""One denoising step: our U-Net against diffusers', on the same weights and inputs, in turns in one process.

For Stable Diffusion 1.x at 32² latents and for the built-in `scenes`, with random weights: ours in float32 and bfloat16
against diffusers' default (float32), its bfloat16 and, with --best, its documented best for CPUs (bfloat16,
channels_last, fused QKV, torch.compile with max-autotune; compiling takes minutes). Prints medians, speeds as multiples
of diffusers' default, and the largest deviation; the last line is JSON.

    python -m benchmarks.step [--models scenes sd1] [--rows 1 2 8] [--rounds 15] [--best]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from ldm_core.directory import read_json
from ldm_core.unet import UNet
from ldm_core.unet_config import UNetConfig

SCENES = Path(__file__).parents[1] / "ldm_core/builtin/scenes/unet/config.json"
MODELS = {
    "scenes": (UNetConfig.from_json(read_json(SCENES)), 16, 32),  # latents, tokens
    "sd1": (UNetConfig(cross_attention_dim=768), 32, 77),
}
Step = Callable[[], Tensor]


def steps(name: str, rows: int, best: bool) -> dict[str, Step]:
    """What is measured, by name."""
    config, side, tokens = MODELS[name]
    torch.manual_seed(0)
    plain = UNet(config).eval().requires_grad_(False)
    peer = diffusers.UNet2DConditionModel.from_config(config.to_json()).eval().requires_grad_(False)
    peer.load_state_dict(plain.state_dict())
    assert config.cross_attention_dim is not None
    x, t = torch.randn(rows, config.in_channels, side, side), torch.linspace(1, 999, rows).long()
    context = torch.randn(rows, tokens, config.cross_attention_dim)

    def ours(dtype: torch.dtype) -> Step:
        unet = copy.deepcopy(plain).to(dtype)
        inputs = x.to(dtype), t, context.to(dtype)
        return lambda: unet(*inputs)

    def theirs(dtype: torch.dtype) -> Step:
        unet = copy.deepcopy(peer).to(dtype)
        inputs = x.to(dtype), t, context.to(dtype)
        return lambda: unet(*inputs, return_dict=False)[0]

    measured = {
        "diffusers float32": theirs(torch.float32), "diffusers bfloat16": theirs(torch.bfloat16),
        "ours float32": ours(torch.float32), "ours bfloat16": ours(torch.bfloat16),
    }  # fmt: skip
    if best:
        measured["diffusers at its best"] = _best(peer, x, t, context)
    return measured


def _best(peer: Any, x: Tensor, t: Tensor, context: Tensor) -> Step:
    unet = copy.deepcopy(peer).bfloat16().to(memory_format=torch.channels_last)
    unet.fuse_qkv_projections()
    compiled = torch.compile(unet, mode="max-autotune", fullgraph=True)
    inputs = x.bfloat16().to(memory_format=torch.channels_last), t, context.bfloat16()
    return lambda: compiled(*inputs, return_dict=False)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--rows", nargs="+", type=int, default=[2, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--best", action="store_true")
    args = parser.parse_args()
    results = []
    for name in args.models:
        for rows in args.rows:
            measured = steps(name, rows, args.best)
            times: dict[str, list[float]] = {label: [] for label in measured}
            with torch.inference_mode():
                reference = measured["diffusers float32"]()
                deviation = {label: float((run().float() - reference).abs().max()) for label, run in measured.items()}
                for _ in range(args.rounds):
                    for label, run in measured.items():
                        started = time.perf_counter()
                        run()
                        times[label].append(time.perf_counter() - started)
            base = statistics.median(times["diffusers float32"])
            print(f"{name}, {rows} rows, {torch.get_num_threads()} threads")
            for label, seconds in times.items():
                median = statistics.median(seconds)
                print(f"  {label:24}{median * 1e3:9.1f} ms {base / median:6.2f} x   deviation {deviation[label]:.1e}")
                results.append({"model": name, "rows": rows, "label": label, "ms": median * 1e3, "x": base / median})
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
