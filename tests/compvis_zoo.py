"""Every published configuration of the research repositories, as facts: keys and values, sizes and all.

CompVis/latent-diffusion (`models`, `configs`), CompVis/stable-diffusion and Stability-AI/stablediffusion. Training data
and loggers, which no reader looks at, are left out.
"""

from __future__ import annotations

from typing import Any

Yaml = dict[str, Any]
LDM = "ldm.models.diffusion.ddpm."
IDENTITY = {"target": "torch.nn.Identity"}
UNCONDITIONAL = "__is_unconditional__"
KL_LOSS = {
    "target": "ldm.modules.losses.LPIPSWithDiscriminator",
    "params": {"disc_start": 50001, "kl_weight": 1e-06, "disc_weight": 0.5},
}
VQ_LOSS = {
    "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_conditional": False, "disc_in_channels": 3, "disc_weight": 0.75, "codebook_weight": 1.0},
}
WARM_UP = {
    "target": "ldm.lr_scheduler.LambdaLinearScheduler",
    "params": {"warm_up_steps": [10000], "cycle_lengths": [10**13], "f_start": [1e-6], "f_max": [1.0], "f_min": [1.0]},
}


def ddconfig(z: int, mult: list[int], attends: list[int], *, kl: bool, **more: Any) -> Yaml:
    return {
        "double_z": kl, "z_channels": z, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": mult,
        "num_res_blocks": 2, "attn_resolutions": attends, "dropout": 0.0, **more,
    }  # fmt: skip


def kl(z: int, mult: list[int], attends: list[int] | None = None, loss: Yaml = IDENTITY, **more: Any) -> Yaml:
    params = {"monitor": "val/rec_loss", "embed_dim": z, "lossconfig": loss}
    return {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {**params, "ddconfig": ddconfig(z, mult, attends or [], kl=True, **more)},
    }


def vq(kind: str, z: int, entries: int, mult: list[int], attends: list[int] | None = None, **more: Any) -> Yaml:
    own = {key: more.pop(key) for key in ("ckpt_path", "monitor") if key in more}
    loss = VQ_LOSS if kind == "VQModel" else IDENTITY
    params = {"embed_dim": z, "n_embed": entries, "lossconfig": loss, **own}
    return {
        "target": f"ldm.models.autoencoder.{kind}",
        "params": {**params, "ddconfig": ddconfig(z, mult, attends or [], kl=False, **more)},
    }


VQ_F4 = vq("VQModelInterface", 3, 8192, [1, 2, 4])
VQ_F4_FILE = vq("VQModelInterface", 3, 8192, [1, 2, 4], ckpt_path="models/first_stage_models/vq-f4/model.ckpt")
VQ_F8 = vq("VQModelInterface", 4, 16384, [1, 2, 2, 4], [32], ckpt_path="configs/first_stage_models/vq-f8/model.yaml")
KL_F8 = kl(4, [1, 2, 4, 4])


def unet(size: int, ins: int, out: int, width: int, attends: list[int], mult: list[int], **more: Any) -> Yaml:
    return {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "image_size": size, "in_channels": ins, "out_channels": out, "model_channels": width,
            "attention_resolutions": attends, "num_res_blocks": 2, "channel_mult": mult, **more,
        },
    }  # fmt: skip


def over_context(dim: int, depth: int = 1, **more: Any) -> Yaml:
    return {"use_spatial_transformer": True, "transformer_depth": depth, "context_dim": dim, **more}


def diffusion(
    net: Yaml, first_stage: Yaml, condition: Any, end: float, size: int, channels: int, target: str = "LatentDiffusion",
    **more: Any,
) -> Yaml:  # fmt: skip
    common = {"linear_start": 0.0015, "log_every_t": 200, "timesteps": 1000, "first_stage_key": "image"}
    params = {
        **common, "linear_end": end, "image_size": size, "channels": channels, "unet_config": net,
        "first_stage_config": first_stage, "cond_stage_config": condition, "monitor": "val/loss_simple_ema", **more,
    }  # fmt: skip
    return {"base_learning_rate": 1e-06, "target": LDM + target, "params": params}


def encoder(name: str, **params: Any) -> Yaml:
    node = {"target": f"ldm.modules.encoders.modules.{name}"}
    return {**node, "params": params} if params else node


FACES = unet(64, 3, 3, 224, [8, 4, 2], [1, 2, 3, 4], num_head_channels=32)
CLASS_F8 = unet(32, 4, 4, 256, [4, 2, 1], [1, 2, 4], num_head_channels=32, **over_context(512))
ADAPTIVE = {"use_scale_shift_norm": True, "resblock_updown": True}
CHURCHES = unet(32, 4, 4, 192, [1, 2, 4, 8], [1, 2, 2, 4, 4], num_heads=8, **ADAPTIVE)
BY_CLASS = {"cond_stage_key": "class_label", "cond_stage_trainable": True, "conditioning_key": "crossattn"}
BY_TEXT = {"cond_stage_key": "caption", "cond_stage_trainable": True, "conditioning_key": "crossattn"}
ALONE = {"cond_stage_key": "class_label", "cond_stage_trainable": False, "concat_mode": False, "num_timesteps_cond": 1}
BESIDE = {"concat_mode": True, "loss_type": "l1", "log_every_t": 100}
MAP = {"cond_stage_key": "segmentation", "cond_stage_trainable": True, **BESIDE}


def faces(**more: Any) -> Yaml:
    return diffusion(FACES, more.pop("first_stage", VQ_F4), UNCONDITIONAL, 0.0195, 64, 3, **more)


def churches(**more: Any) -> Yaml:
    training = {
        "scale_by_std": True, "loss_type": "l1", "scheduler_config": WARM_UP, "cond_stage_key": "image",
        "concat_mode": False, "cond_stage_trainable": False, "num_timesteps_cond": 1,
    }  # fmt: skip
    return diffusion(CHURCHES, KL_F8, UNCONDITIONAL, 0.0155, 32, 4, **training, **more)


def semantic(side: int) -> Yaml:
    net = unet(side, 6, 3, 128, [32, 16, 8], [1, 4, 8], num_heads=8)
    condition = encoder("SpatialRescaler", n_stages=2, in_channels=182, out_channels=3)
    return diffusion(net, VQ_F4, condition, 0.0205, side, 3, **MAP)


NO_ATTENTION = vq("VQModelInterface", 3, 8192, [1, 2, 4], attn_type="none", monitor="val/rec_loss")
LATENT_DIFFUSION: dict[str, Yaml] = {
    "models/ldm/celeba256": faces(**ALONE),
    "models/ldm/ffhq256": faces(**ALONE),
    "models/ldm/lsun_beds256": faces(**ALONE),
    "models/ldm/lsun_churches256": churches(),
    "models/ldm/cin256": diffusion(
        CLASS_F8, VQ_F8, encoder("ClassEmbedder", embed_dim=512, key="class_label"), 0.0195, 32, 4, **BY_CLASS
    ),
    "models/ldm/text2img256": diffusion(
        unet(64, 3, 3, 192, [8, 4, 2], [1, 2, 3, 5], num_head_channels=32, **over_context(640)), VQ_F4,
        encoder("BERTEmbedder", n_embed=640, n_layer=32), 0.0195, 64, 3, **BY_TEXT,
    ),
    "models/ldm/layout2img-openimages256": diffusion(
        unet(64, 3, 3, 128, [8, 4, 2], [1, 2, 3, 4], num_head_channels=32, **over_context(512, 3)), VQ_F4,
        encoder("BERTEmbedder", n_embed=512, n_layer=16, vocab_size=8192, max_seq_len=92, use_tokenizer=False),
        0.0205, 64, 3, **{**BY_TEXT, "cond_stage_key": "coordinates_bbox", "loss_type": "l1"},
    ),
    "models/ldm/semantic_synthesis256": semantic(64),
    "models/ldm/semantic_synthesis512": semantic(128),
    "models/ldm/bsr_sr": diffusion(
        unet(64, 6, 3, 160, [16, 8], [1, 2, 2, 4], num_head_channels=32), VQ_F4_FILE, IDENTITY, 0.0155, 64, 3,
        **{**BESIDE, "loss_type": "l2"}, cond_stage_key="LR_image", cond_stage_trainable=False,
    ),
    "models/ldm/inpainting_big": diffusion(
        unet(64, 7, 3, 256, [8, 4, 2], [1, 2, 3, 4], num_heads=8, resblock_updown=True), NO_ATTENTION,
        "__is_first_stage__", 0.0205, 64, 3, **BESIDE, cond_stage_key="masked_image",
        scheduler_config={"target": "ldm.lr_scheduler.LambdaWarmUpCosineScheduler", "params": {"warm_up_steps": 1000}},
    ),
    "configs/latent-diffusion/celebahq-ldm-vq-4": faces(first_stage=VQ_F4_FILE, num_timesteps_cond=1),
    "configs/latent-diffusion/ffhq-ldm-vq-4": faces(first_stage=VQ_F4_FILE, num_timesteps_cond=1),
    "configs/latent-diffusion/lsun_bedrooms-ldm-vq-4": faces(first_stage=VQ_F4_FILE, num_timesteps_cond=1),
    "configs/latent-diffusion/lsun_churches-ldm-kl-8": churches(),
    "configs/latent-diffusion/cin-ldm-vq-f8": diffusion(
        CLASS_F8, VQ_F8, encoder("ClassEmbedder", embed_dim=512, key="class_label"), 0.0195, 32, 4, **BY_CLASS
    ),
    "configs/latent-diffusion/cin256-v2": diffusion(
        unet(64, 3, 3, 192, [8, 4, 2], [1, 2, 3, 5], num_heads=1, **over_context(512)), VQ_F4,
        encoder("ClassEmbedder", n_classes=1001, embed_dim=512, key="class_label"), 0.0195, 64, 3, **BY_CLASS,
        use_ema=False,
    ),
    "configs/latent-diffusion/txt2img-1p4B-eval": diffusion(
        unet(32, 4, 4, 320, [4, 2, 1], [1, 2, 4, 4], num_heads=8, **over_context(1280), use_checkpoint=True,
             legacy=False),
        KL_F8, encoder("BERTEmbedder", n_embed=1280, n_layer=32), 0.012, 32, 4, **BY_TEXT, linear_start=0.00085,
        scale_factor=0.18215, use_ema=False,
    ),
    "configs/retrieval-augmented-diffusion/768x768": diffusion(
        unet(48, 16, 16, 448, [4, 2, 1], [1, 2, 3, 4], num_head_channels=32, **over_context(768), use_checkpoint=True,
             use_scale_shift_norm=False, resblock_updown=False),
        kl(16, [1, 1, 2, 2, 4], [16]), IDENTITY, 0.015, 48, 16, scale_factor=0.22765929, scale_by_std=False,
        cond_stage_key="nix", cond_stage_trainable=False, conditioning_key="crossattn", num_timesteps_cond=1,
    ),
}  # fmt: skip

FIRST_STAGES: dict[str, Yaml] = {
    "models/first_stage_models/kl-f4": kl(3, [1, 2, 4], loss=KL_LOSS),
    "models/first_stage_models/kl-f8": kl(4, [1, 2, 4, 4], loss=KL_LOSS),
    "models/first_stage_models/kl-f16": kl(16, [1, 1, 2, 2, 4], [16], KL_LOSS),
    "models/first_stage_models/kl-f32": kl(64, [1, 1, 2, 2, 4, 4], [16, 8], KL_LOSS),
    "configs/autoencoder/autoencoder_kl_64x64x3": kl(3, [1, 2, 4], loss=KL_LOSS),
    "configs/autoencoder/autoencoder_kl_32x32x4": kl(4, [1, 2, 4, 4], loss=KL_LOSS),
    "configs/autoencoder/autoencoder_kl_16x16x16": kl(16, [1, 1, 2, 2, 4], [16], KL_LOSS),
    "configs/autoencoder/autoencoder_kl_8x8x64": kl(64, [1, 1, 2, 2, 4, 4], [16, 8], KL_LOSS),
    "models/first_stage_models/vq-f4": vq("VQModel", 3, 8192, [1, 2, 4], monitor="val/rec_loss"),
    "models/first_stage_models/vq-f4-noattn": vq(
        "VQModel", 3, 8192, [1, 2, 4], attn_type="none", monitor="val/rec_loss"
    ),
    "models/first_stage_models/vq-f8": vq("VQModel", 4, 16384, [1, 2, 2, 4], [32], monitor="val/rec_loss"),
    "models/first_stage_models/vq-f8-n256": vq("VQModel", 4, 256, [1, 2, 2, 4], [32], monitor="val/rec_loss"),
    "models/first_stage_models/vq-f16": vq("VQModel", 8, 16384, [1, 1, 2, 2, 4], [16]),
}

PROMPTED = {
    "first_stage_key": "jpg", "cond_stage_key": "txt", "cond_stage_trainable": False, "scale_factor": 0.18215,
    "num_timesteps_cond": 1, "linear_start": 0.00085, "conditioning_key": "crossattn",
}  # fmt: skip
SD1 = {"num_heads": 8, **over_context(768), "use_checkpoint": True, "legacy": False}
SD2 = {"num_head_channels": 64, **over_context(1024), "use_linear_in_transformer": True, "legacy": False}
OPEN_CLIP = encoder("FrozenOpenCLIPEmbedder", freeze=True, layer="penultimate")


def stable(channels: int, net: Yaml, condition: Yaml, target: str = "LatentDiffusion", **more: Any) -> Yaml:
    net = unet(32, channels, 4, 320, [4, 2, 1], [1, 2, 4, 4], **net)
    return diffusion(net, more.pop("first_stage", KL_F8), condition, 0.012, 64, 4, target, **{**PROMPTED, **more})


def sd2(channels: int = 4, target: str = "LatentDiffusion", net: Yaml | None = None, **more: Any) -> Yaml:
    return stable(channels, SD2 | (net or {"use_checkpoint": True}), OPEN_CLIP, target, use_ema=False, **more)


FP32 = {"use_checkpoint": False, "use_fp16": False}
BF16 = {**FP32, "use_bf16": True}
V = {"parameterization": "v"}
INPAINTING = "LatentInpaintDiffusion"
STABLE_DIFFUSION: dict[str, Yaml] = {
    "configs/stable-diffusion/v1-inference": stable(
        4, SD1, encoder("FrozenCLIPEmbedder"), use_ema=False, scheduler_config=WARM_UP
    ),
    "configs/stable-diffusion/v1-inpainting-inference": stable(
        9, SD1, encoder("FrozenCLIPEmbedder"), INPAINTING, conditioning_key="hybrid", finetune_keys=None,
        scheduler_config=WARM_UP,
    ),
    "configs/stable-diffusion/v2-inference": sd2(net={"use_checkpoint": True, "use_fp16": True}),
    "configs/stable-diffusion/v2-inference-v": sd2(net={"use_checkpoint": True, "use_fp16": True}, **V),
    "configs/stable-diffusion/v2-inpainting-inference": sd2(9, INPAINTING, conditioning_key="hybrid"),
    "configs/stable-diffusion/x4-upscaling": diffusion(
        unet(128, 7, 4, 256, [2, 4, 8], [1, 2, 2, 4], num_heads=8, **over_context(1024), use_checkpoint=True,
             num_classes=1000, disable_self_attentions=[True, True, True, False], disable_middle_self_attn=False,
             legacy=False, use_linear_in_transformer=True),
        kl(4, [1, 2, 4]), OPEN_CLIP, 0.02, 128, 4, "LatentUpscaleDiffusion",
        **{**PROMPTED, **V, "linear_start": 0.0001, "scale_factor": 0.08333, "conditioning_key": "hybrid-adm"},
        low_scale_key="lr", use_ema=False, low_scale_config={
            "target": "ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation",
            "params": {"noise_schedule_config": {"linear_start": 0.0001, "linear_end": 0.02}, "max_noise_level": 350},
        },
    ),
    **{f"configs/stable-diffusion/{maker}/v2-inference{kind}": sd2(net=net, **more) for maker in ("intel", "ipex")
       for kind, net, more in (("-bf16", BF16, {}), ("-fp32", FP32, {}), ("-v-bf16", BF16, V), ("-v-fp32", FP32, V))},
}  # fmt: skip


def unclip(embedder: Yaml, width: int, **more: Any) -> Yaml:
    net = {"num_classes": "sequential", "adm_in_channels": width, "use_checkpoint": True}
    attention = {"spatial_transformer_attn_type": "softmax-xformers"}
    first_stage = kl(4, [1, 2, 4, 4], attn_type="vanilla-xformers")
    return sd2(
        target="ImageEmbeddingConditionedLatentDiffusion", net=net | attention, first_stage=first_stage, **V,
        embedding_dropout=0.25, conditioning_key="crossattn-adm", image_size=96, embedder_config=embedder, **more,
    )  # fmt: skip


def augmented(width: int) -> Yaml:
    schedule = {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
    return encoder("CLIPEmbeddingNoiseAugmentation", timestep_dim=width, noise_schedule_config=schedule)


VIT_L = encoder("ClipImageEmbedder", model="ViT-L/14")
OTHERS: dict[str, Yaml] = {
    "configs/stable-diffusion/v2-midas-inference": sd2(
        5, "LatentDepth2ImageDiffusion", conditioning_key="hybrid", finetune_keys=None,
        depth_stage_config={"target": "ldm.modules.midas.api.MiDaSInference", "params": {"model_type": "dpt_hybrid"}},
    ),
    "configs/stable-diffusion/v2-1-stable-unclip-h-inference": unclip(
        encoder("FrozenOpenCLIPImageEmbedder"), 2048, noise_aug_config=augmented(1024)
    ),
    "configs/stable-diffusion/v2-1-stable-unclip-l-inference": unclip(VIT_L, 1536, noise_aug_config=augmented(768)),
    "configs/stable-diffusion/v2-1-stable-karlo-inference": unclip(VIT_L, 768),
    "configs/karlo/prior_1B_vit_l": {"type": "prior", "diffusion_sampler": "uniform", "hparams": {"xf_layers": 20}},
    "configs/karlo/decoder_900M_vit_l": {
        "type": "t2i-decoder", "diffusion_sampler": "uniform", "hparams": {"use_scale_shift_norm": True},
    },
    "configs/karlo/improved_sr_64_256_1.4B": {
        "type": "improved_sr_64_256", "diffusion_sampler": "uniform", "hparams": {"channels": 320},
    },
}  # fmt: skip
