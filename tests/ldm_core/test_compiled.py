"""A compiled U-Net: the same images, the same bytes in company, and nothing else touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core import compiled, denoise, tasks
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams
from tests.tiny import write_tiny_models

PARAMS = GenerationParams(
    task="txt2img", width=64, height=64, steps=3, guidance_scale=4.0, seed=5, prompt="a red house"
)
ROWS = 2
# captured whole as for the other compiler, but run by torch's own operators: that takes seconds
QUICKLY = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LatentDiffusion]]:
    """One as it is loaded, and one compiled."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    path = write_tiny_models(Path(tmp_path_factory.mktemp("models")))[0]
    plain, other = (load_model(path, request.param) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cpu":
            patch.setattr(compiled, "compile_whole", QUICKLY)
        compiled.compile_unet(other, ROWS)
    yield [plain, other]
    torch.compiler.reset()


def test_every_dtype_of_a_cpu_is_captured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compile_whole", QUICKLY)
    path = write_tiny_models(tmp_path)[0]
    plain, other = (load_model(path, "cpu", torch.bfloat16) for _ in range(2))
    compiled.compile_unet(other, ROWS)
    first, second = (levels(generate(model, PARAMS, rows=ROWS)[0]) for model in (plain, other))
    assert np.abs(first - second).mean() < 3
    torch.compiler.reset()


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_it_makes_the_same_pictures(models: list[LatentDiffusion]) -> None:
    plain, other = (generate(model, PARAMS, rows=ROWS)[0] for model in models)
    assert np.abs(levels(plain) - levels(other)).max() <= 2


def test_only_the_shape_of_the_warm_up_is_compiled(models: list[LatentDiffusion]) -> None:
    plain, other = models
    wide = replace(PARAMS, width=96)
    assert generate(other, wide, rows=ROWS)[0].tobytes() == generate(plain, wide, rows=ROWS)[0].tobytes()
    assert generate(other, PARAMS, rows=4)[0].tobytes() == generate(plain, PARAMS, rows=4)[0].tobytes()
    assert isinstance(other.compiled_unet, compiled.CompiledUNet)
    ((x, *_),) = other.compiled_unet._calls
    assert x == (ROWS, other.unet.config.in_channels, 64 // 4, 64 // 4)


@torch.inference_mode()
def test_a_picture_is_the_same_alone_and_in_company(models: list[LatentDiffusion]) -> None:
    other = models[1]
    jobs = [replace(PARAMS, seed=seed, guidance_scale=scale) for seed, scale in ((5, 4.0), (6, 1.0), (7, 2.0))]
    samples = [tasks.begin(other, job, 0, {}) for job in jobs]
    while not samples[0].done:
        denoise.step(other, samples, ROWS)
    together = [tasks.finish(other, sample).tobytes() for sample in samples]
    assert together == [generate(other, job, rows=ROWS)[0].tobytes() for job in jobs]
