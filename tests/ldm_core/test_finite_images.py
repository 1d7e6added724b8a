"""A decoder that overflows in half precision decodes in float32; what stays infinite fails its job. No black images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm_core import tasks
from ldm_core.errors import NonFiniteImage
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.params import GenerationParams
from tests.pretended_cuda import PretendedCuda, pretended_cuda
from tests.tiny import write_tiny_models

TXT2IMG = GenerationParams(task="txt2img", width=64, height=64, steps=2, guidance_scale=1.0, seed=5, prompt="a boat")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`scenes` as it is, and with a decoder whose last activations are beyond float16's 65504."""
    plain, _ = write_tiny_models(tmp_path_factory.mktemp("plain"))
    loud, _ = write_tiny_models(tmp_path_factory.mktemp("loud"))
    (file,) = (loud / "vae").glob("*.safetensors")
    weights = load_file(file)
    last = weights["decoder.conv_out.weight"].float()
    save_file(weights | {"decoder.conv_out.weight": last * (60000 / last.abs().max())}, file)
    return {"plain": plain, "loud": loud}


@pytest.fixture
def gpu() -> Iterator[PretendedCuda]:
    with pretended_cuda() as gpu:
        yield gpu


def begun(model: Any, **changes: Any) -> Any:
    with torch.inference_mode():
        return tasks.begin(model, replace(TXT2IMG, **changes), 0, {})


@torch.inference_mode()
def test_an_image_that_overflows_is_decoded_in_float32(
    directories: dict[str, Path], gpu: PretendedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(directories["loud"], "cuda", torch.float16)
    sample = begun(model)
    assert not model.decode(sample.x).isfinite().all()
    precise = load_model(directories["loud"], "cuda", torch.float32)
    expected = (tasks.decode(precise, sample) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    found = np.asarray(tasks.finish(model, sample))
    assert np.array_equal(found, expected) and len(np.unique(found)) > 1
    assert np.asarray(tasks.preview(model, sample.x)).any()
    assert "not finite in torch.float16; decoding in float32" in caplog.text


@torch.inference_mode()
def test_what_is_infinite_in_float32_too_is_an_error(directories: dict[str, Path], gpu: PretendedCuda) -> None:
    for device, dtype in (("cuda", torch.bfloat16), ("cuda", torch.float32), ("cpu", torch.float32)):
        model = load_model(directories["plain"], device, dtype)
        sample = begun(model)
        sample.x = torch.full_like(sample.x, torch.inf)
        with pytest.raises(NonFiniteImage, match="infinite or not a number"):
            tasks.finish(model, sample)


@torch.inference_mode()
def test_the_flag_costs_no_copy_of_its_own(
    directories: dict[str, Path], gpu: PretendedCuda, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(directories["plain"], "cuda", torch.bfloat16)
    sample = begun(model)
    with gpu.counting() as seen, caplog.at_level(logging.WARNING):
        image = tasks.finish(model, sample)
    (crossing,) = seen.crossings
    assert (crossing.kind, crossing.numbers) == ("to host", 3 * 64 * 64 + 1)
    assert image.size == (64, 64) and not caplog.records


def test_a_known_region_hides_what_is_infinite_behind_it(directories: dict[str, Path], gpu: PretendedCuda) -> None:
    """What was to be kept comes from the original: only the hole has to be finite."""
    model = load_model(directories["plain"], "cpu")
    given = Image.effect_noise((64, 64), 80).convert("RGB")
    mask = Image.new("L", (64, 64))
    params = replace(TXT2IMG, task="inpaint")
    with torch.inference_mode():
        sample = tasks.begin(model, params, 0, {"image": given, "mask": mask})
        sample.x = torch.full_like(sample.x, torch.nan)
        assert np.array_equal(np.asarray(tasks.finish(model, sample)), np.asarray(given))
    assert generate(model, params, given, mask)
