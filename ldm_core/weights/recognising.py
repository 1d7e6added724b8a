"""What a file of weights is, by the names and shapes of its tensors, where it is not what `ldm import` takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm_core.errors import ModelError
from ldm_core.networks.unet_config import UNetConfig

Table = tuple[tuple[re.Pattern[str], str], ...]

UNET = "model.diffusion_model."
RESEARCH = ("model.", "model_ema.", "first_stage_model.", "cond_stage_model.")
TAKEN = "Stable Diffusion 1 and 2 and latent diffusion are"
LORA = "is a LoRA, a change to a model and not a model; merge it into its base model and import that"
EMBEDDING = "is an embedding of textual inversion, words for a model and not a model; its base model can be imported"
HYPERNETWORK = "is a hypernetwork, a change to a model and not a model; its base model can be imported"
AUTOENCODER = "is an autoencoder alone; import it with an autoencoder's yaml, or pass it to another import as --vae"


def _table(*rows: tuple[str, str]) -> Table:
    return tuple((re.compile(pattern, re.MULTILINE), what) for pattern, what in rows)


# models of other kinds, whatever else lies in their files
FAMILIES = _table(
    (r"^conditioner\.embedders\.1\.", f"is Stable Diffusion XL, which is not supported; {TAKEN}"),
    (r"^conditioner\.embedders\.0\.", f"is the refiner of Stable Diffusion XL, which is not supported; {TAKEN}"),
    (r"^(model\.diffusion_model\.)?joint_blocks\.", f"is Stable Diffusion 3, which is not supported; {TAKEN}"),
    (r"^(model\.diffusion_model\.)?(double_blocks|single_transformer_blocks)\.",
     f"is Flux, or a model like it, which is not supported; {TAKEN}"),
    (r"^(model\.diffusion_model\.)?(transformer_blocks|blocks|layers)\.\d+\.(attn|self_attn|attention|cross_attn)",
     f"is a diffusion transformer, which is not supported; {TAKEN}"),
    (r"^depth_model\.", "is the depth model of Stable Diffusion 2, which is not supported"),
    (r"^(noise_augmentor|embedder\.model\.visual)\.", "is Stable unCLIP, which is not supported"),
    (r"^cc_projection\.", "is Zero123, which is not supported"),
    (r"^(control_model|input_hint_block|zero_convs|controlnet_\w+)\.",
     "is a ControlNet, which steers a model and is none; its base model can be imported"),
    (r"motion_modules?\.|\.time_stack\.|temporal_transformer", "is a model of moving images, which is not supported"),
    (r"^model\.diffusion_model\.label_emb\.0\.0\.", f"is Stable Diffusion XL or unCLIP; only {TAKEN} supported"),
)  # fmt: skip
# files without a U-Net in the research code's names
PARTS = _table(
    (r"^lora_|\.(lora_(up|down|A|B|linear_layer)|hada_w\d_a|lokr_w\d)\b|[._]lora\.(up|down)\.", LORA),
    (r"^(emb_params|clip_[lg]|<[^>]*>|\*)$", EMBEDDING),
    (r"^(down_blocks|up_blocks|mid_block)\.\d*",
     "is one component of a diffusers directory; serve that whole directory, which needs no import"),
    (r"^((taesd_)?(encoder|decoder)\.)?(layers\.)?\d+\.(conv\.\d+|skip)\.(weight|bias)$",
     "is TAESD, a small autoencoder for previews, which is not supported"),
    (r"^conv_first\.weight|RRDB_trunk\.|\.(RDB|rdb)\d\.|residual_group\.",
     "is an upscaler of images (ESRGAN or SwinIR), which is not supported"),
    (r"^concept_embeds|^special_care_embeds", "is a safety checker, which is not a model"),
    (r"^(text_model\.encoder|encoder\.block\.\d+\.layer|transformer\.resblocks|visual|shared\.weight)",
     "is a text or image encoder alone, not a diffusion model"),
    (r"^(controlnet|adapter|body\.\d+\.block\d)", "is an adapter, which steers a model and is none"),
    (r"^ip_adapter\.|^image_proj\.", "is an IP-Adapter, which steers a model and is none"),
)  # fmt: skip
ALONE = re.compile(r"^(encoder|decoder)\.(conv_in|down|up|mid|conv_out|down_blocks|up_blocks)\.", re.MULTILINE)
CHANNELS = {
    4: "as text-to-image has", 5: "as Stable Diffusion 2's depth model has", 7: "as the x4 upscaler has",
    8: "as InstructPix2Pix has", 9: "as inpainting has",
}  # fmt: skip
CONTEXTS = {768: "as Stable Diffusion 1 has", 1024: "as Stable Diffusion 2 has", 1280: "as latent diffusion with BERT"}


def refuse_other_pickles(file: Path, loaded: Any) -> None:
    """Files of torch.save that hold no state dict and that people take for models. Raises ModelError."""
    if isinstance(loaded, dict) and "string_to_param" in loaded:
        raise ModelError(file, EMBEDDING)
    if isinstance(loaded, dict) and any(isinstance(key, int) for key in loaded) and "layer_structure" in loaded:
        raise ModelError(file, HYPERNETWORK)


def refuse_other_models(file: Path, keys: Iterable[str]) -> None:
    """Raises ModelError, saying what the file is, where no yaml would make it a model of ours."""
    names = list(keys)
    tables = FAMILIES if any(name.startswith(UNET) for name in names) else FAMILIES + PARTS
    joined = "\n".join(names)
    for pattern, what in tables:
        if pattern.search(joined):
            raise ModelError(file, what)


def refuse_other_scope(file: Path, config: Path, keys: Iterable[str], *, diffusion: bool) -> None:
    """That a yaml of a diffusion model comes with one, and that of an autoencoder with one alone. Raises ModelError."""
    names = list(keys)
    whole = any(name.startswith((UNET, "model_ema.diffusion_model")) for name in names)
    if diffusion and not whole and any(ALONE.match(name.removeprefix("first_stage_model.")) for name in names):
        raise ModelError(file, AUTOENCODER)
    if diffusion and not any(name.startswith(RESEARCH) for name in names):
        raise ModelError(file, f"holds no weights of a latent diffusion model (no {UNET}*)")
    if not diffusion and whole:
        raise ModelError(file, f"is a whole diffusion model; {config.name} describes an autoencoder alone")


def refuse_other_sizes(file: Path, config: Path, state: Mapping[str, Tensor], unet: UNetConfig) -> None:
    """That the U-Net's input and what it attends to are as wide as the yaml says. Raises ModelError."""
    widths = {key: state[key].shape[1] for key in state if _tells(key) and state[key].ndim > 1}
    context = next((width for key, width in widths.items() if key.endswith("attn2.to_k.weight")), None)
    channels = widths.get(f"{UNET}input_blocks.0.0.weight")
    ours = unet.cross_attention_dim if context is not None else None
    for found, wanted, known, what in (
        (context, ours, CONTEXTS, "attends to {} values a token{}; {} has a context_dim of {}"),
        (channels, unet.in_channels, CHANNELS, "takes {} channels{}; {} has in_channels of {}"),
    ):
        if found is not None and found != wanted:
            like = f", {known[found]}" if found in known else ""
            raise ModelError(
                file, f"{what.format(found, like, config.name, wanted or 'none')}: it needs the yaml of its own"
            )


def _tells(key: str) -> bool:
    """Only the first attention is looked at: reading a tensor's shape may read the tensor."""
    return key.startswith(UNET) and bool(
        re.search(r"input_blocks\.(0\.0|[1-5]\.1\.transformer_blocks\.0\.attn2\.to_k)\.weight$", key)
    )
