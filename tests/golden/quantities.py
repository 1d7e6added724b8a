"""Every quantity of a case, by the library's public functions: a name to a tensor, in the reference's shapes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ldm_core.autoencoder import Codebook
from tests.golden.case import Case
from tests.golden.parts import hole_channels, quantised
from tests.golden.runs import run, special_runs

Quantities = Iterator[tuple[str, Tensor]]


def compute(case: Case) -> Quantities:
    """All of them; runs last, for they take the longest."""
    with torch.inference_mode():
        yield from _first_stage(case)
        if case.kind == "ae":
            return
        yield from _condition(case)
        yield from _unet(case)
        if case.kind == "inpaint":
            yield "inpaint/c", hole_channels(case)
        for name in case.info["runs"]:
            if f"{name}/timesteps" in case:
                yield from run(case, name)
        yield from special_runs(case)


def _first_stage(case: Case) -> Quantities:
    autoencoder, z = case.autoencoder, case["first_stage/z"]
    image = case["first_stage/image"]
    if autoencoder.quantize is not None:
        yield from _vq(case, autoencoder.quantize)
        return
    mean, logvar = autoencoder.posterior(image)
    assert logvar is not None
    scaled, std = autoencoder.moments(image)
    yield "first_stage/moments", autoencoder.encode(image)
    yield "first_stage/mean", mean
    yield "first_stage/logvar", logvar
    sample = scaled + std * case["first_stage/posterior_noise"]
    yield from (("first_stage/encoding", sample), ("first_stage/encoding_mode", scaled), ("first_stage/sample", sample))
    yield "first_stage/decoded", autoencoder.decode(z)


def _vq(case: Case, codebook: Codebook) -> Quantities:
    autoencoder, z = case.autoencoder, case["first_stage/z"]
    h = autoencoder.encode(case["first_stage/image"])
    yield "first_stage/h", h
    if case.kind != "ae":
        yield "first_stage/encoding", autoencoder.moments(case["first_stage/image"])[0]
        yield "first_stage/decoded_noquant", autoencoder.decode(z, quantize=False)
        yield from quantised("first_stage/vq_indices", codebook, z / autoencoder.config.scaling_factor)
        yield "first_stage/decoded", autoencoder.decode(z)
        return
    yield from quantised("first_stage/indices", codebook, h)
    yield "first_stage/quant", codebook(h)
    yield "first_stage/decoded_from_quant", autoencoder.decode(codebook(h), quantize=False)
    yield "first_stage/decoded", autoencoder.decode(z, quantize=False)
    yield from quantised("first_stage/z_indices", codebook, z)
    yield "first_stage/z_quantized", codebook(z)
    yield "first_stage/decoded_from_z_quantized", autoencoder.decode(z)


def _condition(case: Case) -> Quantities:
    condition, inputs = case.model.condition, ("token_ids", "labels", "tokens", "label_map")
    given = next((f"cond/{name}" for name in inputs if f"cond/{name}" in case), None)
    if given is None:
        return
    yield "cond/context", condition(case[given])
    if "cond/uncond_token_ids" in case:
        assert torch.equal(condition.tokenize(case.info["prompts"]), case["cond/token_ids"]), "other tokens"
        assert torch.equal(condition.tokenize([case.info["uncond_prompt"]]), case["cond/uncond_token_ids"])
        yield "cond/uncond_context", condition(case["cond/uncond_token_ids"])
    elif "uncond_label" in case.info:
        yield "cond/uncond_context", condition(torch.tensor([case.info["uncond_label"]]))


def _unet(case: Case) -> Quantities:
    context = concat = None
    if "unet/cond" in case:
        concat = case["unet/cond"]
    elif "cond/context" in case:
        (context, concat) = (None, case["cond/context"]) if case.kind == "semantic" else (case["cond/context"], None)
    inputs = (case["unet/x"], case["unet/t"], context, concat)
    yield "unet/eps", case.model.predict(*inputs)
    if "unet/eps_without_ema" in case:
        yield "unet/eps_without_ema", case.raw_model.predict(*inputs)
