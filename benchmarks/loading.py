"""How long does loading a model directory of full Stable Diffusion 1.x size take, and how much memory?

Writes a directory of random numbers (4.3 GB in float32) once, then loads it in processes of their own, its files in the
page cache, by this tree and by each other tree that is named; they take turns. Seconds are those of `load_model` alone,
memory is what the process had at most, and what it still has. The last line is JSON.

    python -m benchmarks.loading [--stored float32 float16] [--dtype float32] [--rounds 3] [--beside /another/tree ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from string import ascii_lowercase
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.networks import SD1
from ldm_core.model_directory.components import write_json
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from training.scenes.tokenizer import END, START, byte_symbols

ROOT = Path(__file__).parents[1]
TOKENS = 49408
TEXT = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768,
    vocab_size=TOKENS, max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=TOKENS - 2,
    eos_token_id=TOKENS - 1,
)  # fmt: skip
INDEX = {
    "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "DDIMScheduler"],
}  # fmt: skip
SCHEDULE = {
    "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False,
}  # fmt: skip
LOAD = """
import json, os, sys, time
import ldm_core.loading.model as loading  # before torch, as in a worker: it sets how OpenMP waits
import torch
before, started = os.times(), time.perf_counter()
model = loading.load_model(sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]))
seconds, after = time.perf_counter() - started, os.times()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak, held = (1024 * int(status[name].split()[0]) for name in ("VmHWM", "VmRSS"))
print(json.dumps({"seconds": seconds, "cpu_s": sum(after[:2]) - sum(before[:2]), "peak_bytes": peak,
                  "held_bytes": held, "digest": model.digest, "code": loading.__file__}))
"""


def write_directory(folder: Path, dtype: torch.dtype) -> Path:
    """A model directory of Stable Diffusion 1.x's networks with random weights of this dtype. Returns `folder`."""
    with torch.device("meta"):
        parts = {
            "unet/diffusion_pytorch_model": UNet(SD1),
            "vae/diffusion_pytorch_model": Autoencoder(AutoencoderConfig()),
            "text_encoder/model": CLIPTextModel(TEXT),
        }
    for name, network in parts.items():
        file = folder / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: (0.02 * torch.randn(p.shape)).to(dtype) for key, p in network.named_parameters()}, file)
    write_json(folder / "unet/config.json", SD1.to_json())
    write_json(folder / "vae/config.json", AutoencoderConfig().to_json())
    write_json(folder / "text_encoder/config.json", {**TEXT.to_dict(), "architectures": ["CLIPTextModel"]})
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULE)
    write_json(folder / "model_index.json", INDEX)
    _write_tokenizer(folder / "tokenizer")
    return folder


def _write_tokenizer(folder: Path) -> None:
    """As many tokens as CLIP's has; words of two and of three letters are among them."""
    symbols, letters = byte_symbols(), ascii_lowercase
    merges = [(a, b + "</w>") for a in letters for b in letters]
    merges += [(a, b + c + "</w>") for a in letters for b in letters for c in letters]
    merges += [(a, b) for a in symbols for b in symbols]
    singles = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens = list(dict.fromkeys([*singles, *("".join(pair) for pair in merges)]))[: TOKENS - 2]
    vocabulary = {token: number for number, token in enumerate([*tokens, START, END])}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges if "".join(pair) in vocabulary)]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    )


def load(tree: Path, folder: Path, device: str, dtype: str) -> dict[str, Any]:
    """What one process measures with the code of `tree`."""
    fill_memory(folder)
    arguments = [str(folder), device, dtype]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not Path(found["code"]).is_relative_to(tree.resolve()):
        raise SystemExit(f"{found['code']} was measured, not the code in {tree}")
    return found


def fill_memory(folder: Path) -> None:
    """Fills memory with cached files, the model's last, as on a machine that has been up for a while.

    A virtual machine hands free memory back to its host and takes it anew at a gigabyte a second or less.
    """
    filler = folder.with_name("filler")
    with filler.open("wb") as stream:
        stream.truncate(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))  # a sparse file takes no disk
    for file in (filler, *folder.rglob("*.safetensors"), *folder.rglob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.read(2**24):
                pass


def compare(folder: Path, trees: list[Path], device: str, dtype: str, rounds: int) -> list[dict[str, Any]]:
    """The medians of each tree; trees take turns."""
    found: dict[Path, list[dict[str, Any]]] = {tree: [] for tree in trees}
    for _ in range(rounds):
        for tree in trees:
            found[tree].append(load(tree, folder, device, dtype))
    if len({each["digest"] for measured in found.values() for each in measured}) != 1:
        raise SystemExit("the trees do not give the directory the same digest")
    names = ("seconds", "cpu_s", "peak_bytes", "held_bytes")
    medians = [{name: median(each[name] for each in measured) for name in names} for measured in found.values()]
    return [{"tree": str(tree), **each} for tree, each in zip(trees, medians, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stored", nargs="+", default=["float32", "float16"], choices=("float32", "float16", "bfloat16")
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", nargs="*", type=Path, default=[])
    args = parser.parse_args()
    results = []
    for stored in args.stored:
        with tempfile.TemporaryDirectory() as name:
            folder = write_directory(Path(name) / "model", getattr(torch, stored))
            for found in compare(folder, [ROOT, *args.beside], args.device, args.dtype, args.rounds):
                results.append({"stored": stored, "dtype": args.dtype, "device": args.device, **found})
                print(f"{stored} files as {args.dtype} on {args.device}, by {found['tree']}:", flush=True)
                took, memory = "{seconds:.1f} s ({cpu_s:.1f} s of processors)", "{peak_bytes:.2e} bytes at most"
                print(f"    {took}, {memory}, {{held_bytes:.2e}} then".format(**found), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
