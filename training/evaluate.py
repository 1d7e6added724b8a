"""Measures the models on scenes that they have not seen, and writes the model card from what it found.

    python -m training.evaluate --captions 200 --out report.json --card ldm_core/builtin/MODEL_CARD.md

A classifier reads the generated images; how well it reads drawn ones and reconstructions is measured first, for no
figure below can mean more than that. Prints a table; the last line is the whole report as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from training.classifier import AttributeClassifier, accuracies, load_classifier
from training.held_out import held_out, labels, repaints
from training.measures import measure_autoencoder, measure_inpaint, measure_superres, measure_txt2img
from training.model_card import render_card
from training.quality import Pixels
from training.scenes import dataset
from training.scenes.render import CANVAS, render

BUILTIN = Path(__file__).resolve().parent.parent / "ldm_core/builtin"
REAL_PICTURES = 1000
Figures = dict[str, Any]


def evaluate(
    directories: list[Path],
    classifier: AttributeClassifier,
    *,
    captions: int,
    seed: int = 0,
    seen: frozenset[str] = frozenset(),
    real_pictures: int = REAL_PICTURES,
    device: str = "cpu",
) -> Figures:
    """The report of every model: `captions` for text-to-image, half as many images for the other tasks."""
    real = held_out(real_pictures, CANVAS // 4, seed + 1)
    read = accuracies(classifier.read(np.stack([s.picture for s in real])), labels([s.scene for s in real]))
    shared: dict[str, nn.Module] = {}
    models = [load_model(directory, device, shared=shared) for directory in directories]
    report: Figures = {"seed": seed, "classifier": {"pictures": real_pictures, "read": read}, "models": {}}
    for directory, model in zip(directories, models, strict=True):
        figures = {"weights_bytes": _weights_bytes(directory), "parameters": _parameters(model)}
        figures |= _tasks(model, classifier, captions, seed, seen)
        report["models"][model.card.id] = figures
    return report


def _tasks(
    model: LatentDiffusion, classifier: AttributeClassifier, captions: int, seed: int, seen: frozenset[str]
) -> Figures:
    size, fewer = model.card.native_size[0], max(1, captions // 2)
    scenes = held_out(captions, size, seed, seen)
    figures: Figures = {"size": size, "autoencoder": measure_autoencoder(model, scenes, classifier)}
    if "txt2img" in model.card.tasks:
        figures["txt2img"] = measure_txt2img(model, scenes, classifier)
    if "inpaint" in model.card.tasks:
        figures["inpaint"] = measure_inpaint(model, repaints(fewer, size, seed), classifier)
    if "superres" in model.card.tasks:
        figures["superres"] = measure_superres(model, [s.picture for s in scenes[:fewer]])
        larger: list[Pixels] = [render(s.scene, CANVAS) for s in scenes[: max(1, fewer // 5)]]
        figures["superres_larger"] = measure_superres(model, larger)
    return figures


def _parameters(model: LatentDiffusion) -> dict[str, int]:
    networks: dict[str, nn.Module] = {"unet": model.unet, "autoencoder": model.autoencoder, "text": model.condition}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def _weights_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


def table(report: Figures) -> Iterator[str]:
    """The report in lines for a terminal."""
    read = report["classifier"]["read"]
    yield f"classifier on {report['classifier']['pictures']} real pictures: mean {np.mean(list(read.values())):.4f}"
    yield "  " + "  ".join(f"{name} {value:.3f}" for name, value in read.items())
    for name, figures in report["models"].items():
        ae = figures["autoencoder"]
        yield f"{name}: autoencoder {ae['psnr']:.2f} dB, SSIM {ae['ssim']:.4f}"
        yield f"  classifier on its reconstructions: mean {np.mean(list(ae['read'].values())):.4f}"
        if drawn := figures.get("txt2img"):
            yield f"  txt2img, {drawn['captions']} captions; right where stated:"
            for attribute, count in drawn["stated"].items():
                yield f"    {attribute:14s} {_counted(count)}"
            yield f"    {'whole caption':14s} {_counted(drawn['whole_caption'])}"
        if painted := figures.get("inpaint"):
            yield f"  inpaint: new colour {_counted(painted['new_colour'])}, seam ratio {painted['seam_ratio']:.2f}"
        for key in ("superres", "superres_larger"):
            if enlarged := figures.get(key):
                ours, other = enlarged["model"], enlarged["bicubic"]
                yield (
                    f"  superres to {enlarged['size'][0]} px: {ours['psnr']:.2f} dB, SSIM {ours['ssim']:.4f}; "
                    f"bicubic {other['psnr']:.2f} dB, SSIM {other['ssim']:.4f}"
                )


def _counted(count: Figures) -> str:
    if not count["of"]:
        return "no case"
    return f"{count['share']:.3f}  [{count['low']:.2f}, {count['high']:.2f}]  {count['right']}/{count['of']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", default=[BUILTIN / "scenes", BUILTIN / "scenes-superres"])
    parser.add_argument("--classifier", type=Path, default=BUILTIN / "classifier.safetensors")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    parser.add_argument("--data", type=Path, help="the drawn training set, so that captions it holds are left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    parser.add_argument("--card", type=Path, help="write the model card here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s")
    seen: frozenset[str] = frozenset()
    if args.data:
        seen = frozenset(text for group in dataset.load(args.data).captions for text in group)
    classifier = load_classifier(args.classifier)
    report = evaluate(args.models, classifier, captions=args.captions, seed=args.seed, seen=seen, device=args.device)
    options = f"--captions {args.captions} --seed {args.seed}{' --data RUN/data' if args.data else ''}"
    report["command"] = f"python -m training.evaluate {options} --card ldm_core/builtin/MODEL_CARD.md"
    report["captions_checked_against_training"] = bool(args.data)
    recipe = args.models[0].resolve().parent / "training.json"
    training = json.loads(recipe.read_text()) if recipe.exists() else {}
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")
    if args.card:
        args.card.write_text(render_card(report, training))
    print("\n".join(table(report)))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
