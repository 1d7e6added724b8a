"""CLIP embeddings as condition, against the transformers library's own way to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel

from ldm_core.checkpoints import import_checkpoint
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.networks.clip_embedder import ClipEmbedder
from ldm_core.params import GenerationParams
from tests.compvis_layout import retrieval_augmented


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDiffusion, CLIPModel]:
    folder = tmp_path_factory.mktemp("retrieval")
    written = retrieval_augmented(folder)
    out = import_checkpoint(written.ckpt, written.config, folder / "out", clip=written.clip)
    return load_model(out), CLIPModel.from_pretrained(str(written.clip)).eval()


def photo(width: int, height: int) -> Image.Image:
    waves = np.sin(np.arange(width * height * 3).reshape(height, width, 3) / 97) * 127 + 128
    return Image.fromarray(waves.astype(np.uint8))


def params(**changes: object) -> GenerationParams:
    common = {"task": "txt2img", "width": 128, "height": 128, "steps": 3, "guidance_scale": 5.0, "seed": 1}
    return GenerationParams(**{**common, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(32, 32), (90, 50), (41, 77), (20, 24)])
def test_an_image_is_seen_as_the_transformers_library_has_it_seen(
    retrieval: tuple[LatentDiffusion, CLIPModel], size: tuple[int, int]
) -> None:
    model, clip = retrieval
    assert isinstance(model.condition, ClipEmbedder)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(photo(*size), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        theirs = clip.get_image_features(pixels).pooler_output
        ours = model.condition.of_image(photo(*size))
    assert (ours - theirs / theirs.norm()).abs().max() < 1e-4


def test_prompt_and_neighbours_are_tokens_of_one_context(retrieval: tuple[LatentDiffusion, CLIPModel]) -> None:
    model, clip = retrieval
    encoder = model.condition
    assert isinstance(encoder, ClipEmbedder)
    images = {f"neighbor{i}": photo(30 + i, 40) for i in range(11)}
    with torch.inference_mode():
        ids = torch.as_tensor(encoder.tokenizer(["a palm tree"], return_tensors="pt")["input_ids"])
        text = clip.get_text_features(ids).pooler_output
        context = encoder.context(params(prompt="a palm tree"), images)
        assert context.shape == (1, 12, 24)
        assert (context.norm(dim=-1) - 1).abs().max() < 1e-5
        assert (context[:, 0] - text / text.norm()).abs().max() < 1e-5
        assert torch.equal(context[:, 11], encoder.of_image(images["neighbor10"]))
        assert torch.equal(encoder.context(params(), images), context[:, 1:])  # no prompt: the images alone
        assert encoder.context(params(), {}).shape == (1, 1, 24)
        assert not encoder.unconditional(params(), context).any()
        negative = encoder.unconditional(params(negative_prompt="a horse"), context)
        assert torch.equal(negative[:, 3], encoder.of_text("a horse"))


def test_neighbours_change_the_image(retrieval: tuple[LatentDiffusion, CLIPModel]) -> None:
    model, _ = retrieval
    plain, near, far = (
        generate(model, params(prompt="a palm tree"), neighbors=images)[0].tobytes()
        for images in ([], [photo(40, 40)], [photo(40, 40), photo(64, 20)])
    )
    assert len({plain, near, far}) == 3
