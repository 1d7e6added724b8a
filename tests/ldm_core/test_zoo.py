"""Every published configuration is read, with the task and the size of its model; other families are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from ldm_core.card import ModelCard
from ldm_core.checkpoints import import_checkpoint
from ldm_core.checkpoints.configs import autoencoder_config
from ldm_core.checkpoints.diffusion import read_diffusion
from ldm_core.checkpoints.reader import read_yaml
from ldm_core.errors import ModelError
from ldm_core.model_directory.card_reader import read_card
from ldm_core.networks.autoencoder import Autoencoder, AutoencoderConfig
from ldm_core.networks.unet import UNet
from ldm_core.networks.unet_config import UNetConfig
from tests import compvis_zoo
from tests.compvis_layout import write_clip

CONFIGS, MODELS = "configs/", "models/ldm/"
SD, RETRIEVAL = f"{CONFIGS}stable-diffusion/", f"{CONFIGS}retrieval-augmented-diffusion/768x768"
TEXT = ("txt2img", "inpaint")
# of each: its tasks, the side in pixels of its training, its U-Net's millions of parameters where they are published
DRAWS: dict[str, tuple[tuple[str, ...], int, int | None]] = {
    f"{MODELS}celeba256": (("unconditional",), 256, 274),
    f"{MODELS}ffhq256": (("unconditional",), 256, 274),
    f"{MODELS}lsun_beds256": (("unconditional",), 256, 274),
    f"{MODELS}lsun_churches256": (("unconditional",), 256, 294),
    f"{MODELS}cin256": (("class2img",), 256, 395),
    f"{MODELS}text2img256": (TEXT, 256, None),
    f"{MODELS}layout2img-openimages256": (("layout2img",), 256, None),
    f"{MODELS}semantic_synthesis256": (("semantic2img",), 256, None),
    f"{MODELS}semantic_synthesis512": (("semantic2img",), 512, None),
    f"{MODELS}bsr_sr": (("superres",), 256, None),
    f"{MODELS}inpainting_big": (("inpaint",), 256, 387),
    f"{CONFIGS}latent-diffusion/celebahq-ldm-vq-4": (("unconditional",), 256, 274),
    f"{CONFIGS}latent-diffusion/ffhq-ldm-vq-4": (("unconditional",), 256, 274),
    f"{CONFIGS}latent-diffusion/lsun_bedrooms-ldm-vq-4": (("unconditional",), 256, 274),
    f"{CONFIGS}latent-diffusion/lsun_churches-ldm-kl-8": (("unconditional",), 256, 294),
    f"{CONFIGS}latent-diffusion/cin-ldm-vq-f8": (("class2img",), 256, 395),
    f"{CONFIGS}latent-diffusion/cin256-v2": (("class2img",), 256, 401),
    f"{CONFIGS}latent-diffusion/txt2img-1p4B-eval": (TEXT, 256, 872),
    RETRIEVAL: (TEXT, 768, None),
    f"{SD}v1-inference": (TEXT, 512, 860),
    f"{SD}v1-inpainting-inference": (TEXT, 512, 860),
    f"{SD}v2-inference": (TEXT, 512, 866),
    f"{SD}v2-inference-v": (TEXT, 768, 866),
    f"{SD}v2-inpainting-inference": (TEXT, 512, 866),
    f"{SD}x4-upscaling": (("superres",), 512, 473),
    **{f"{SD}{maker}/v2-inference{kind}": (TEXT, 768 if "-v" in kind else 512, 866)
       for maker in ("intel", "ipex") for kind in ("-bf16", "-fp32", "-v-bf16", "-v-fp32")},
}  # fmt: skip
DIFFUSION = compvis_zoo.LATENT_DIFFUSION | compvis_zoo.STABLE_DIFFUSION
DEPTH = "is Stable Diffusion 2 depth, which needs the depth maps of a MiDaS network; this service has none"
UNCLIP = "draws from CLIP's embedding of an image (unCLIP), for which this service has no task"
KARLO = f"is one of Karlo's configurations: it {UNCLIP}"
REFUSED = {
    f"{SD}v2-midas-inference": DEPTH,
    **{f"{SD}v2-1-stable-{kind}-inference": UNCLIP for kind in ("unclip-h", "unclip-l", "karlo")},
    **{f"{CONFIGS}karlo/{kind}": KARLO for kind in ("prior_1B_vit_l", "decoder_900M_vit_l", "improved_sr_64_256_1.4B")},
}


def written(folder: Path, model: compvis_zoo.Yaml) -> Path:
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    return folder / "model.yaml"


def parameters(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def test_none_is_forgotten() -> None:
    assert set(DRAWS) == set(DIFFUSION) and set(REFUSED) == set(compvis_zoo.OTHERS)


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_model_is_read(name: str, tmp_path: Path) -> None:
    tasks, side, millions = DRAWS[name]
    path = written(tmp_path, DIFFUSION[name])
    clip = write_clip(tmp_path / "clip") if name == RETRIEVAL else None
    parts = read_diffusion(path, read_yaml(path), clip=clip)
    parts.write_configs(tmp_path / "out", "CLIPTokenizer" if parts.condition and parts.condition.tokenizer else None)
    card = read_card(tmp_path / "out")
    assert (card.tasks, card.native_size) == (tasks, (side, side))
    assert UNetConfig.from_json(parts.unet.to_json()) == parts.unet
    assert AutoencoderConfig.from_json(parts.first_stage.to_json()) == parts.first_stage
    with torch.device("meta"):
        found = parameters(UNet(parts.unet))
        Autoencoder(parts.first_stage)
    assert millions is None or abs(found - millions) < 1


@pytest.mark.parametrize("name", compvis_zoo.FIRST_STAGES)
def test_a_first_stage_is_read(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, compvis_zoo.FIRST_STAGES[name])
    config = autoencoder_config(path, read_yaml(path), 1.0)
    assert AutoencoderConfig.from_json(config.to_json()) == config
    with torch.device("meta"):
        assert parameters(Autoencoder(config)) > 50


@pytest.mark.parametrize("name", compvis_zoo.OTHERS)
def test_another_family_is_named_in_one_true_sentence(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, compvis_zoo.OTHERS[name])
    torch.save({"state_dict": {}}, tmp_path / "model.ckpt")
    with pytest.raises(ModelError) as raised:
        import_checkpoint(tmp_path / "model.ckpt", path, tmp_path / "models/out")
    assert raised.value.detail == REFUSED[name]
    assert list((tmp_path / "models").iterdir()) == []


def card_of(folder: Path, name: str, size: int | None) -> ModelCard:
    path = written(folder, DIFFUSION[name])
    read_diffusion(path, read_yaml(path), size=size).write_configs(folder / "out", "CLIPTokenizer")
    return read_card(folder / "out")


def test_a_size_that_is_given_takes_the_place_of_the_one_in_the_yaml(tmp_path: Path) -> None:
    assert card_of(tmp_path, f"{SD}v2-inference-v", 512).native_size == (512, 512)
    assert card_of(tmp_path, f"{SD}v2-inference", 768).native_size == (768, 768)
    assert card_of(tmp_path, f"{MODELS}bsr_sr", 512).native_size == (512, 512)
    for wrong in (0, -64, 100, 2**20):
        with pytest.raises(ModelError, match=f"--size: must be a multiple of 64 up to 8192, got {wrong}"):
            card_of(tmp_path, f"{SD}v2-inference", wrong)
