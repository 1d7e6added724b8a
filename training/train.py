"""The command that made the built-in models: `python -m training.train --run DIR`.

Stages: data → autoencoder → text → unet → superres → export. Each keeps a checkpoint in DIR; the same command goes
on where the last one stopped. The result lies in DIR/models.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_core.model_directory.components import write_json
from ldm_core.networks.autoencoder import Autoencoder
from ldm_core.networks.unet import UNet
from ldm_core.sampling.schedule import NoiseSchedule
from training.corpus import Corpus, load_corpus, with_latents
from training.export import LOW_RES_SCHEDULER, SCHEDULERS, export_model
from training.first_stage import train_autoencoder
from training.loop import Session, TimeUp
from training.recipe import RECIPES, Recipe
from training.scenes import dataset
from training.scenes.captions import vocabulary
from training.scenes.tokenizer import write_tokenizer
from training.second_stage import train_superres, train_unet
from training.text_stage import train_text

logger = logging.getLogger(__name__)

STAGES = ("data", "autoencoder", "text", "unet", "superres", "export")
TRAINING_SEED, HELD_OUT_SEED = 0, 1_000_000_007


class Run:
    """One training run: its folder, its device and the stages, each of which loads what the ones before it left."""

    def __init__(self, session: Session, recipe: Recipe, device: torch.device, workers: int) -> None:
        self.session, self.recipe, self.device, self.workers = session, recipe, device, workers
        self.folder = folder = session.folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tokenizer/vocab.json").exists():
            write_tokenizer(folder / "tokenizer")
        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
        self.schedule = NoiseSchedule.from_config(SCHEDULERS["scenes"])
        self.low_res_schedule = NoiseSchedule.from_config(LOW_RES_SCHEDULER)

    def data(self) -> None:
        dataset.draw(self.folder / "data", self.recipe.pictures, TRAINING_SEED, self.recipe.size, self.workers)

    def autoencoder(self) -> Autoencoder:
        file = self.folder / "autoencoder.pt"
        if not file.exists():
            trained = train_autoencoder(self.recipe, self._corpus().with_details().pictures, self.session)
            torch.save(trained.state_dict(), file)
        autoencoder = Autoencoder(self.recipe.autoencoder).to(self.device)
        autoencoder.load_state_dict(torch.load(file, map_location=self.device, weights_only=True))
        return autoencoder.eval().requires_grad_(False)

    def text(self) -> CLIPTextModel:
        """Its checkpoint already makes it cheap to come here again: a finished stage only loads."""
        return train_text(self.recipe, self._corpus(), self.tokenizer, self.session)

    def unet(self) -> UNet:
        autoencoder = self.autoencoder()
        corpus = with_latents(self._corpus(), autoencoder, self.folder / "latents.pt")
        return train_unet(
            self.recipe, corpus, autoencoder, self.text(), self.schedule,
            self._empty(), self.session,
        )  # fmt: skip

    def superres(self) -> UNet:
        corpus = with_latents(self._corpus().with_details(), self.autoencoder(), self.folder / "latents-superres.pt")
        return train_superres(
            self.recipe, corpus, self.text(), self.schedule, self.low_res_schedule,
            self._empty(), self.session,
        )  # fmt: skip

    def export(self) -> None:
        autoencoder, text = self.autoencoder(), self.text()
        size = self.recipe.size
        shared = {"created": int(time.time()), "native_size": [size, size], "vocabulary": vocabulary()}
        services = {
            "scenes": {"default_steps": 25, "default_guidance_scale": 4.0, "inpaint_guidance_scale": 2.0,
                       "default_for": ["txt2img", "inpaint"], "max_side": 2 * size},
            "scenes-superres": {"default_steps": 10, "default_guidance_scale": 1.0, "default_for": ["superres"],
                                "noise_level": 0},
        }  # fmt: skip
        limits = {"scenes": (2 * size) ** 2, "scenes-superres": (16 * size) ** 2}
        for name, unet in {"scenes": self.unet(), "scenes-superres": self.superres()}.items():
            export_model(
                self.folder / "models" / name,
                unet=unet,
                autoencoder=autoencoder,
                text=text,
                tokenizer=self.tokenizer,
                service={**shared, **services[name], "max_pixels": limits[name]},
            )
        write_json(self.folder / "models/training.json", {"recipe": dataclasses.asdict(self.recipe)})
        logger.info("written: %s", self.folder / "models")

    def _corpus(self) -> Corpus:
        return load_corpus(self.folder / "data", self.tokenizer, self.device)

    def _empty(self) -> torch.Tensor:
        ids = self.tokenizer("", padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
        return torch.as_tensor(ids[0]).to(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--recipe", choices=RECIPES, default="scenes")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--steps", nargs="*", default=[], metavar="STAGE=N", help="another length, such as unet=20000")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit-s", type=float, help="stop after so many seconds, with a checkpoint")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw pictures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s")
    deadline = time.monotonic() + args.limit_s if args.limit_s else None
    recipe = RECIPES[args.recipe]
    for change in args.steps:
        stage, _, steps = change.partition("=")
        recipe = dataclasses.replace(
            recipe, **{f"{stage}_stage": dataclasses.replace(getattr(recipe, f"{stage}_stage"), steps=int(steps))}
        )
    run = Run(Session(args.run, deadline), recipe, torch.device(args.device), args.workers)
    try:
        for name in args.stages:
            getattr(run, name)()
    except TimeUp as stopped:
        raise SystemExit(str(stopped)) from None


if __name__ == "__main__":
    main()
