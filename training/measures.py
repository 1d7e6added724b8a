"""What `evaluate` measures of one model: autoencoder, text-to-image, inpainting, super-resolution."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldm_core import tasks
from ldm_core.denoise import Denoiser
from ldm_core.generate import generate
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams, Task
from training.classifier import AttributeClassifier, accuracies
from training.held_out import HeldOut, Repaint, labels
from training.quality import Pixels, border_contrast, psnr, share, ssim
from training.scenes.scene import ATTRIBUTES

logger = logging.getLogger(__name__)

THINGS = ("house", "tree", "boat", "balloon")
KEPT = ("time", "ground", "background")  # what painting a house anew must not change
Figures = dict[str, Any]


@torch.inference_mode()
def measure_autoencoder(model: LatentDiffusion, scenes: Sequence[HeldOut], classifier: AttributeClassifier) -> Figures:
    """PSNR and SSIM of reconstructions, and what the classifier still reads in them."""
    rebuilt = []
    for item in scenes:
        x = (torch.from_numpy(np.array(item.picture)).permute(2, 0, 1)[None].float() / 127.5 - 1).to(model.device)
        mean, _ = model.moments(x)
        y = model.autoencoder.decode(mean).float()
        rebuilt.append(((y[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    truth = labels([item.scene for item in scenes])
    return {
        "pictures": len(scenes),
        **_closeness([item.picture for item in scenes], rebuilt),
        "read": accuracies(classifier.read(np.stack(rebuilt)), truth),
    }


def measure_txt2img(model: LatentDiffusion, scenes: Sequence[HeldOut], classifier: AttributeClassifier) -> Figures:
    """For each attribute, how often it is right among the captions that state it; at the model's default settings."""
    pictures = []
    for index, item in enumerate(scenes):
        params = _params(model, "txt2img", model.card.native_size, index, item.caption.text)
        pictures.append(np.asarray(generate(model, params)[0]))
        _progress("txt2img", index, len(scenes))
    found = classifier.read(np.stack(pictures))
    truth = labels([item.scene for item in scenes])
    said = np.array([item.caption.flags() for item in scenes])
    return {"captions": len(scenes), **_settings(model, "txt2img"), **obedience(found, truth, said)}


def obedience(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], said: np.ndarray[Any, Any]) -> Figures:
    """Arrays (N, A): what was read, what is true of the scene, what the caption states."""
    right = found == truth
    column = {name: index for index, name in enumerate(ATTRIBUTES)}
    asked = {thing: said[:, column[thing]] for thing in THINGS}
    there = {thing: found[:, column[thing]] > 0 for thing in THINGS}
    return {
        "stated": {name: _count(right[said[:, i], i]) for name, i in column.items()},
        "there_when_asked": {thing: _count(there[thing][asked[thing]]) for thing in THINGS},
        "absent_when_not_asked": {thing: _count(~there[thing][~asked[thing]]) for thing in THINGS},
        "whole_caption": _count((right | ~said).all(axis=1)),
    }


@torch.inference_mode()
def measure_inpaint(model: LatentDiffusion, jobs: Sequence[Repaint], classifier: AttributeClassifier) -> Figures:
    """A house painted anew in another colour: is it that colour, does the hole's border show, is the rest kept?"""
    painted, raw_outside, seams, seams_before, untouched = [], [], [], [], 0
    for index, job in enumerate(jobs):
        params = _params(model, "inpaint", _size(job.original), index, job.caption.text)
        mask = Image.fromarray(job.mask.astype(np.uint8) * 255)
        sample = tasks.begin(model, params, 0, {"image": Image.fromarray(job.original), "mask": mask})
        denoiser = Denoiser(model, 2)
        while not sample.done:
            denoiser.step([sample])
        picture = np.asarray(tasks.finish(model, sample))
        sample.known_image = None  # the same latents, decoded without putting the known pixels back
        raw_outside.append(psnr(np.asarray(tasks.finish(model, sample)), job.original, ~job.mask))
        untouched += bool((picture == job.original)[~job.mask].all())
        painted.append(picture)
        seams.append(border_contrast(picture, job.mask))
        seams_before.append(border_contrast(job.original, job.mask))
        _progress("inpaint", index, len(jobs))
    right = classifier.read(np.stack(painted)) == labels([job.wanted for job in jobs])
    names = list(ATTRIBUTES)
    return {
        "pictures": len(jobs),
        **_settings(model, "inpaint"),
        "new_colour": _count(right[:, names.index("house")]),
        "kept": {name: _count(right[:, names.index(name)]) for name in KEPT},
        "seam_levels": float(np.mean(seams)),
        "seam_levels_in_originals": float(np.mean(seams_before)),
        "seam_ratio": float(np.mean(seams) / np.mean(seams_before)),
        "psnr_outside_before_compositing": float(np.mean(raw_outside)),
        "outside_identical": share(untouched, len(jobs)),
    }


def measure_superres(model: LatentDiffusion, originals: Sequence[Pixels]) -> Figures:
    """x4 from the area-averaged image, beside Pillow's bicubic of the same small image."""
    ours, bicubic = [], []
    for index, original in enumerate(originals):
        size = _size(original)
        small = Image.fromarray(original).reduce(model.card.scale)
        ours.append(np.asarray(generate(model, _params(model, "superres", size, index), small)[0]))
        bicubic.append(np.asarray(small.resize(size, Image.Resampling.BICUBIC)))
        _progress("superres", index, len(originals))
    wins = sum(psnr(a, o) > psnr(b, o) for a, b, o in zip(ours, bicubic, originals, strict=True))
    return {
        "pictures": len(originals),
        "size": list(_size(originals[0])),
        **_settings(model, "superres"),
        "model": _closeness(originals, ours),
        "bicubic": _closeness(originals, bicubic),
        "better_than_bicubic": share(wins, len(originals)),
    }


def _params(model: LatentDiffusion, task: Task, size: tuple[int, int], seed: int, prompt: str = "") -> GenerationParams:
    """One job at the model's default settings."""
    return GenerationParams(
        task=task,
        width=size[0],
        height=size[1],
        steps=model.card.default_steps,
        guidance_scale=model.card.guidance_for(task),
        seed=seed,
        prompt=prompt,
    )


def _settings(model: LatentDiffusion, task: Task) -> Figures:
    return {"steps": model.card.default_steps, "guidance_scale": model.card.guidance_for(task)}


def _closeness(originals: Sequence[Pixels], others: Sequence[Pixels]) -> Figures:
    pairs = list(zip(originals, others, strict=True))
    return {
        "psnr": float(np.mean([psnr(a, b) for a, b in pairs])),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
    }


def _size(picture: Pixels) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def _count(right: np.ndarray[Any, Any]) -> Figures:
    return share(int(right.sum()), len(right))


def _progress(task: str, index: int, of: int) -> None:
    if (index + 1) % 20 == 0 or index + 1 == of:
        logger.info("%s  %d/%d", task, index + 1, of)
