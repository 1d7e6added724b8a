"""Names what a directory holds that is not served: other families of models, adapters, single components. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm_core.model_directory.json_files import read_json

SERVED = (
    "served are Stable Diffusion 1.x and 2.x, their inpainting and upscaling models, and the models of the latent "
    "diffusion paper"
)
LORA = (
    "holds a LoRA, which only changes another model; merge it into that model (diffusers: load_lora_weights, "
    "fuse_lora, save_pretrained) and give the directory of the result"
)
# diffusers' pipelines by the beginning of their names; a longer beginning stands before a shorter one
PIPELINES: Mapping[str, str] = {
    "StableDiffusionXL": "SDXL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusionDepth2Img": "Stable Diffusion with depth as input",
    "StableDiffusionControlNet": "a pipeline with a ControlNet; give the directory of its Stable Diffusion alone",
    "StableDiffusionInstructPix2Pix": "InstructPix2Pix",
    "StableDiffusionLatentUpscale": "the upscaler of latents",
    "StableDiffusionImageVariation": "Stable Diffusion with an image as prompt",
    "StableDiffusionGLIGEN": "GLIGEN",
    "StableDiffusionLDM3D": "LDM3D, which draws depth as well",
    "StableUnCLIP": "Stable Diffusion unCLIP",
    "StableVideoDiffusion": "Stable Video Diffusion",
    "StableCascade": "Stable Cascade",
    "StableAudio": "Stable Audio",
    "AnimateDiff": "AnimateDiff, which makes videos",
    "ConsistencyModel": "a consistency model",
    "DDIM": "diffusion on pixels, without a first stage",
    "DDPM": "diffusion on pixels, without a first stage",
    "DiT": "a diffusion transformer",
    "Flux": "FLUX",
    "Hunyuan": "Hunyuan",
    "IF": "DeepFloyd IF, which works on pixels",
    "Kandinsky": "Kandinsky",
    "Kolors": "Kolors, a kind of SDXL",
    "LatentConsistencyModel": "a latent consistency model (LCM)",
    "PixArt": "PixArt",
    "QwenImage": "Qwen-Image",
    "Sana": "Sana",
    "UnCLIP": "unCLIP",
    "Wan": "Wan, which makes videos",
    "Wuerstchen": "Würstchen",
}
# classes of components, whole names
COMPONENTS: Mapping[str, str] = {
    "AsymmetricAutoencoderKL": "an autoencoder whose decoder sees the mask",
    "AutoencoderDC": "the autoencoder of Sana",
    "AutoencoderTiny": "TAESD, a small approximation for previews; put the model's own AutoencoderKL in its place",
    "CLIPTextModelWithProjection": "the text encoder of SDXL and unCLIP",
    "ConsistencyDecoderVAE": "OpenAI's consistency decoder; put the model's own AutoencoderKL in its place",
    "ControlNetModel": "a ControlNet, which steers another model",
    "MotionAdapter": "AnimateDiff's adapter, which makes another model draw videos",
    "T2IAdapter": "a T2I adapter, which steers another model",
    "T5EncoderModel": "the text encoder of Stable Diffusion 3, FLUX, PixArt and DeepFloyd IF",
    "UNetMotionModel": "the U-Net of AnimateDiff",
    "UNetSpatioTemporalConditionModel": "the U-Net of Stable Video Diffusion",
}
# components that only other families have
PARTS: Mapping[str, str] = {
    "text_encoder_2": "SDXL", "transformer": "a diffusion transformer (Stable Diffusion 3, FLUX, PixArt, …)",
    "controlnet": "a pipeline with a ControlNet; give the directory of its Stable Diffusion alone",
    "depth_estimator": "Stable Diffusion with depth as input", "motion_adapter": "AnimateDiff",
    "image_normalizer": "Stable Diffusion unCLIP", "prior": "a model in two stages", "decoder": "a model in two stages",
}  # fmt: skip


def pipeline_kind(name: str) -> str:
    """What a pipeline of diffusers that is not served is for; its name alone where that is not known here."""
    known = next((what for start, what in PIPELINES.items() if name.startswith(start)), None)
    if known is None and "ControlNet" in name:
        known = PIPELINES["StableDiffusionControlNet"]
    return f"is {known} ({name})" if known else f"is for {name}, which is not known here"


def component_kind(name: str) -> str:
    """The same for the class of one component."""
    return f"{name} is {COMPONENTS[name]}" if name in COMPONENTS else f"{name} is not known here"


def unet_kind(config: Mapping[str, Any]) -> str | None:
    """What a U-Net of a known class is that is not served."""
    if config.get("addition_embed_type") == "text_time":
        return "is the U-Net of SDXL (addition_embed_type = 'text_time')"
    if config.get("time_cond_proj_dim") is not None:
        return "is the U-Net of a latent consistency model (time_cond_proj_dim)"
    if config.get("class_embed_type") in {"projection", "simple_projection"}:
        return f"is the U-Net of unCLIP (class_embed_type = {config['class_embed_type']!r})"
    if config.get("encoder_hid_dim_type") is not None:
        return f"is a U-Net with an adapter (encoder_hid_dim_type = {config['encoder_hid_dim_type']!r})"
    return None


def channels_kind(extra: int) -> str:
    """The channels of a U-Net behind the latents that are for no task served here."""
    known = {1: ", as Stable Diffusion with depth as input has them,", 4: ", as InstructPix2Pix has them,"}.get(
        extra, ""
    )
    return f"{extra} channels behind the latents{known}"


def describe(root: Path) -> str:
    """What a directory without `model_index.json` holds, and what can be done with it."""
    return next((f"is missing; the directory {what}" for what in _seen(root)), "is missing")


def _seen(root: Path) -> Iterator[str]:
    names = sorted(path.name for path in root.iterdir())
    if "adapter_config.json" in names or any(
        "lora" in name and name.endswith((".safetensors", ".bin")) for name in names
    ):
        yield LORA
    inside = sorted(
        path.parent for path in [*root.glob("*/model_index.json"), *root.glob("snapshots/*/model_index.json")]
    )
    if inside:
        yield f"holds model directories and is none itself; give one of them, as in --model {inside[0]}"
    if "config.json" in names:
        named = str(read_json(root / "config.json").get("_class_name", ""))
        what = f" ({component_kind(named)})" if named in COMPONENTS else f" ({named})" if named else ""
        yield f"is a single component{what} and no whole model, whose directory has a model_index.json"
    first_stage = next((root / name for name in ("vae", "vqvae") if name in names), None)
    if first_stage is not None and "unet" not in names:
        yield f"holds a first stage alone and no whole model; pass it to an import as --vae {first_stage}"
    files = [name for name in names if name.endswith((".safetensors", ".ckpt"))]
    if files:
        yield (
            f"holds {files[0]}, a checkpoint in one file; make a model directory of it: "
            f"ldm import --ckpt {root / files[0]} --config YAML --out DIR"
        )
