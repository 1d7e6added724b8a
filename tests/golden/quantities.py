"""Every quantity of a case, by the library's public functions: a name to a tensor, in the reference's shapes.

A quantity is computed where the case has what it is computed from.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ldm_core.networks.autoencoder import Autoencoder, Codebook
from tests.golden.case import Case
from tests.golden.parts import Quantities, hole_channels, quantised
from tests.golden.runs import run

INPUTS = ("token_ids", "labels", "tokens", "label_map")  # of condition encoders


def groups(case: Case) -> Iterator[Quantities]:
    """All of them, in groups that need nothing from each other; runs last, for they take the longest."""
    yield _first_stage(case)
    if case.kind == "ae":
        return
    yield _condition(case)
    yield _unet(case)
    yield _hole(case)
    for name in case.runs:
        yield run(case, name)


def _first_stage(case: Case) -> Quantities:
    image, z = case.get("first_stage/image"), case.get("first_stage/z")
    codebook = case.autoencoder.quantize
    if image is not None:
        yield from _kl_encoded(case, image) if codebook is None else _vq_encoded(case, image, codebook)
    if z is not None:
        yield from _decoded(case, case.autoencoder, z)


def _kl_encoded(case: Case, image: Tensor) -> Quantities:
    mean, logvar = case.autoencoder.posterior(image)
    assert logvar is not None
    scaled, std = case.autoencoder.moments(image)
    yield "first_stage/moments", case.autoencoder.encode(image)
    yield "first_stage/mean", mean
    yield "first_stage/logvar", logvar
    yield "first_stage/encoding_mode", scaled
    if (noise := case.get("first_stage/posterior_noise")) is not None:
        yield from ((f"first_stage/{name}", scaled + std * noise) for name in ("encoding", "sample"))


def _vq_encoded(case: Case, image: Tensor, codebook: Codebook) -> Quantities:
    h = case.autoencoder.encode(image)
    yield "first_stage/h", h
    if case.kind != "ae":
        yield "first_stage/encoding", case.autoencoder.moments(image)[0]
        return
    yield from quantised("first_stage/indices", codebook, h)
    yield "first_stage/quant", codebook(h)
    yield "first_stage/decoded_from_quant", case.autoencoder.decode(codebook(h), quantize=False)


def _decoded(case: Case, autoencoder: Autoencoder, z: Tensor) -> Quantities:
    codebook = autoencoder.quantize
    if codebook is None:
        yield "first_stage/decoded", autoencoder.decode(z)
    elif case.kind == "ae":
        yield "first_stage/decoded", autoencoder.decode(z, quantize=False)
        yield from quantised("first_stage/z_indices", codebook, z)
        yield "first_stage/z_quantized", codebook(z)
        yield "first_stage/decoded_from_z_quantized", autoencoder.decode(z)
    else:
        yield "first_stage/decoded_noquant", autoencoder.decode(z, quantize=False)
        yield from quantised("first_stage/vq_indices", codebook, z / autoencoder.config.scaling_factor)
        yield "first_stage/decoded", autoencoder.decode(z)


def _condition(case: Case) -> Quantities:
    condition = case.model.condition
    if (given := next((f"cond/{name}" for name in INPUTS if f"cond/{name}" in case), None)) is None:
        return
    if given == "cond/token_ids" and "prompts" in case.info:
        assert torch.equal(condition.tokenize(case.info["prompts"]), case[given]), "other tokens"
    yield "cond/context", condition(case[given])
    if "cond/uncond_token_ids" in case:
        assert torch.equal(condition.tokenize([case.info.get("uncond_prompt", "")]), case["cond/uncond_token_ids"])
        yield "cond/uncond_context", condition(case["cond/uncond_token_ids"])
    elif (label := case.info.get("uncond_label")) is not None:
        yield "cond/uncond_context", condition(torch.tensor([label]))


def _unet(case: Case) -> Quantities:
    if "unet/x" not in case:
        return
    context, concat = case.context_and_channels()
    inputs = (case["unet/x"], case["unet/t"], context, concat)
    yield "unet/eps", case.model.predict(*inputs)
    if "unet/eps_without_ema" in case:
        yield "unet/eps_without_ema", case.raw_model.predict(*inputs)


def _hole(case: Case) -> Quantities:
    if case.kind == "inpaint" and "inpaint/mask" in case:
        yield "inpaint/c", hole_channels(case)
