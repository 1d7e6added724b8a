"""How long does importing a checkpoint of full Stable Diffusion 1.x size take, and how much memory?

Makes one of random numbers in a temporary folder (4.3 GB in float32), copies it, then imports it, each in a process of
its own, from disk to disk: the checkpoint is not in the page cache when one starts, and what it wrote is flushed before
it ends. The copy is the time that reading and writing take. Both take turns, and the median of the last rounds is
printed.

What they write is kept until the end (8.5 GB a round), so that memory is full of cached files when it counts, as it is
on a machine that has been up for a while. Otherwise a virtual machine hands freed memory back to its host and takes it
anew at a quarter of a gigabyte a second, and whoever comes right after a deletion looks three times as fast.
The last line is JSON.

    python -m benchmarks.import_checkpoint [--dtype float16] [--rounds 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import yaml

from ldm_core.checkpoints.components import parameters
from ldm_core.checkpoints.conditions import read_condition
from ldm_core.checkpoints.configs import autoencoder_config, unet_config
from ldm_core.checkpoints.names import clip_source, first_stage_source, unet_source
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.unet import UNet
from training.scenes.tokenizer import write_tokenizer

WARM = 2  # rounds that are not counted
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": 768, "use_checkpoint": True, "legacy": False,
}  # fmt: skip
FIRST_STAGE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
MODEL = {
    "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
    "params": {
        "linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, "image_size": 64, "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 4, "ddconfig": FIRST_STAGE},
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    },
}  # fmt: skip


def make_checkpoint(folder: Path, dtype: torch.dtype) -> Path:
    """Every tensor that the importer asks for, filled by its own name tables."""
    yaml_file = folder / "model.yaml"
    yaml_file.write_text(yaml.safe_dump({"model": MODEL}))
    params = MODEL["params"]
    assert isinstance(params, dict)
    unet = unet_config(yaml_file, params["unet_config"])
    first_stage = autoencoder_config(yaml_file, params["first_stage_config"], 0.18215)
    text = read_condition(yaml_file, params["cond_stage_config"])
    assert text is not None and text.wanted is not None
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": (parameters(UNet(unet)), unet_source(unet)),
            "first_stage_model.": (parameters(Autoencoder(first_stage)), first_stage_source(first_stage)),
            "cond_stage_model.transformer.": (text.wanted, clip_source),
        }
    state: dict[str, torch.Tensor] = {}
    for prefix, (everything, source) in parts.items():
        for name, wanted in everything.items():
            shape = tuple(wanted.shape)
            if (
                prefix == "first_stage_model."
                and ".attentions." in name
                and name.endswith("weight")
                and len(shape) == 2
            ):
                shape = (*shape, 1, 1)  # theirs are 1x1 convolutions
            state[prefix + source(name).key] = torch.rand(shape).to(dtype)
    torch.save({"state_dict": state}, folder / "model.ckpt")
    return folder / "model.ckpt"


def import_command(folder: Path, ckpt: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "service", "import", "--ckpt", str(ckpt), "--config", str(folder / "model.yaml")]
    return [*command, "--out", str(out), "--tokenizer", str(folder / "tokenizer")]


def leave_cache(file: Path) -> None:
    """Takes a file out of the page cache, once nothing is left to be written."""
    os.sync()
    opened = os.open(file, os.O_RDONLY)
    os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(opened)


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and the most memory in bytes, of a process of its own."""
    watch = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    started = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", watch, *command], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, 1024.0 * int(shown.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ckpt = make_checkpoint(folder, getattr(torch, args.dtype))
        write_tokenizer(folder / "tokenizer")
        size = ckpt.stat().st_size
        copies, imports = [], []
        for number in range(WARM + args.rounds):
            leave_cache(ckpt)
            copy = ["sh", "-c", 'cp "$0" "$1" && sync "$1"', str(ckpt), str(folder / f"copy{number}")]
            copies.append(timed(copy)[0])
            leave_cache(ckpt)
            seconds, memory = timed(import_command(folder, ckpt, folder / f"out{number}"))
            imports.append(seconds)
    copied, imported = median(copies[WARM:]), median(imports[WARM:])
    print(f"checkpoint {size / 1e9:.2f} GB, {args.dtype}")
    print(f"copied in {copied:.1f} s, imported in {imported:.1f} s: {imported / copied:.2f} x")
    print(f"peak memory {memory / 1e9:.2f} GB: {memory / size:.2f} x its size")
    figures = {"bytes": size, "dtype": args.dtype, "copies_s": copies, "imports_s": imports, "peak_bytes": memory}
    print(json.dumps({**figures, "time_ratio": imported / copied, "memory_ratio": memory / size}))


if __name__ == "__main__":
    main()
