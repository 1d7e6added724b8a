"""Requests of AUTOMATIC1111's API as those of our own: null and unknown fields are left out, as that API has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ldm_core.card import ModelCard
from ldm_core.errors import InvalidParameter
from ldm_core.images.decoding import to_png
from ldm_core.job_warning import JobWarning
from ldm_core.params import MAX_GUIDANCE_SCALE, MAX_IMAGES, MAX_PROMPT_CHARS, MAX_SEED, MAX_STEPS, Task
from service.intake.body import validated
from service.intake.repainting import (
    CROP,
    FILL,
    SMOOTH,
    Box,
    Repainting,
    Size,
    check_target,
    closely,
    cut_out,
    open_upright,
    open_white_mask,
    resized,
    softened,
)
from service.intake.schemas import MAX_SIDE, JobRequest, Prompt
from service.intake.strict_json import field_problem
from service.intake.tasks import InpaintRequest, SuperresRequest, Txt2ImgRequest
from service.intake.vocabulary import MAX_NAME_CHARS
from service.intake.web_ui_names import (
    OF_ENLARGING,
    OF_MASKS,
    UNFOLLOWED,
    ignored,
    ignored_settings,
    read_sampler,
    read_spacing,
)

MARK = {"api": "sdapi/v1"}  # the metadata of a job that came by this API
FIELDS = {  # of our requests, as this API calls them
    "guidance_scale": "cfg_scale", "sampler": "sampler_name", "schedule": "scheduler",
    "n": "batch_size", "strength": "denoising_strength",
    "image": "init_images/0", "model": "override_settings/sd_model_checkpoint",
}  # fmt: skip


class WebUiRequest(BaseModel):
    """A null counts as a field that is left out."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None}


class DrawRequest(WebUiRequest):
    """`txt2img` and `img2img`; None means our default."""

    prompt: Prompt = ""
    negative_prompt: Prompt = ""
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED)
    sampler_name: str = ""
    sampler_index: str = ""
    scheduler: str = ""
    batch_size: int = Field(default=1, ge=1, le=MAX_IMAGES)
    n_iter: int = Field(default=1, ge=1, le=MAX_IMAGES)
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    cfg_scale: float | None = Field(default=None, ge=1, le=MAX_GUIDANCE_SCALE)
    width: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    eta: float | None = Field(default=None, ge=0, le=1)
    override_settings: dict[str, Any] = Field(default_factory=dict)
    send_images: bool = True
    init_images: list[str] = Field(default_factory=list, max_length=1)
    mask: str = ""
    denoising_strength: float = Field(default=0.75, ge=0, le=1)
    inpainting_fill: int = 2  # noise: with a mask, it is what there is
    resize_mode: int = Field(default=0, ge=0, le=FILL)
    mask_blur: float | None = Field(default=None, ge=0, le=64)
    mask_blur_x: float = Field(default=4, ge=0, le=64)
    mask_blur_y: float = Field(default=4, ge=0, le=64)
    inpainting_mask_invert: bool = False
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(default=0, ge=0, le=MAX_SIDE)

    @property
    def blur(self) -> tuple[float, float]:
        """Of the mask, in pixels across and down."""
        return (self.mask_blur_x, self.mask_blur_y) if self.mask_blur is None else (self.mask_blur, self.mask_blur)


class EnlargeRequest(WebUiRequest):
    """What `extra-single-image` and `extra-batch-images` have in common."""

    resize_mode: int = Field(default=0, ge=0, le=1)
    upscaling_resize: float = Field(default=2, gt=0, le=64, allow_inf_nan=False)
    upscaling_resize_w: int = Field(default=512, ge=1, le=MAX_SIDE)
    upscaling_resize_h: int = Field(default=512, ge=1, le=MAX_SIDE)
    upscaling_crop: bool = True
    upscaler_1: str = "None"

    def finished(self, image: Image.Image, scale: int) -> Image.Image:
        """An image that was enlarged `scale` times, at the size that is asked for."""
        if self.resize_mode == 1 and self.upscaling_crop:
            return resized(image, (self.upscaling_resize_w, self.upscaling_resize_h), CROP)
        factor = self._factor((image.width / scale, image.height / scale)) / scale
        return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), SMOOTH)

    def check_size(self, size: tuple[int, int], scale: int) -> None:
        """Raises InvalidParameter where an image of `size` would become larger than it does by `scale`."""
        if (factor := self._factor(size)) > scale:
            field = "upscaling_resize_w" if self.resize_mode else "upscaling_resize"
            raise InvalidParameter(field, f"enlarges {factor:g} times; at most {scale}, which the model enlarges by")

    def _factor(self, size: tuple[float, float]) -> float:
        if self.resize_mode == 0:
            return self.upscaling_resize
        factors = (self.upscaling_resize_w / size[0], self.upscaling_resize_h / size[1])
        return max(factors) if self.upscaling_crop else min(factors)


@dataclass(frozen=True, slots=True)
class Afterwards:
    """What of a request counts once its images are there. `repainting` is for one with a mask."""

    parameters: Mapping[str, Any]  # as they were sent, without what is large
    send_images: bool
    batch_size: int
    fields: Mapping[str, Any]  # of the text in the PNG
    repainting: Repainting | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """A request as one of ours."""

    task: Task
    body: JobRequest
    warnings: tuple[JobWarning, ...]
    after: Afterwards


def read_drawing(data: dict[str, Any], *, with_image: bool, model: str | None) -> Drawing:
    """A body of `txt2img` or `img2img`; `model` is for one that names none. Raises Problem, RequestError."""
    asked = validated(DrawRequest, data, strict=False)
    fields, of_sampler = _common(asked, model)
    warnings = (*of_sampler, *ignored(data, UNFOLLOWED), *ignored_settings(asked.override_settings))
    after = Afterwards({name: _small(value) for name, value in data.items()}, asked.send_images, asked.batch_size, {})
    if not with_image:
        fields |= {"width": asked.width, "height": asked.height}
        return Drawing("txt2img", validated(Txt2ImgRequest, fields, strict=False), warnings, after)
    image = _init_image(asked)
    size = (asked.width or image.width, asked.height or image.height)
    check_target(*size)
    if asked.mask:
        return _inpainting(asked, image, size, Drawing("inpaint", JobRequest(**fields), warnings, after))
    fields |= {"image": to_png(resized(image, size, asked.resize_mode)), "strength": asked.denoising_strength}
    return Drawing("txt2img", validated(Txt2ImgRequest, fields, strict=False), warnings, after)


def _inpainting(asked: DrawRequest, image: Image.Image, size: Size, whole: Drawing) -> Drawing:
    """`whole` with its mask."""
    base, soft, box = _masked(asked, image, size)
    part, mask = cut_out(base, soft, box, size)
    body = InpaintRequest(**whole.body.model_dump(exclude_unset=True), image=part, mask=mask)
    blur = {"Mask blur": max(asked.blur) or None}
    after = replace(whole.after, repainting=Repainting(to_png(base), to_png(soft), box), fields=blur)
    return replace(whole, body=body, warnings=(*whole.warnings, *_of_mask(asked)), after=after)


def _small(value: Any) -> Any:
    """A value as an answer repeats it: none that is long or has parts."""
    return value if isinstance(value, (str, int, float)) and len(str(value)) <= MAX_PROMPT_CHARS else None


def _of_mask(asked: DrawRequest) -> Iterator[JobWarning]:
    sent = {"denoising_strength": asked.denoising_strength != 1, "inpainting_fill": asked.inpainting_fill != 2}
    yield from ignored(sent, OF_MASKS)


def read_enlarging(data: dict[str, Any]) -> tuple[EnlargeRequest, list[JobWarning]]:
    """A body of `extra-single-image` or `extra-batch-images`, without its images. Raises Problem."""
    return validated(EnlargeRequest, data, strict=False), list(ignored(data, OF_ENLARGING))


def enlarging(value: str, field: str, card: ModelCard, asked: EnlargeRequest) -> JobRequest:
    """The request that enlarges one image. Raises RequestError."""
    image = open_upright(value, field)
    asked.check_size(image.size, card.scale)
    return SuperresRequest(image=to_png(image), model=card.id, metadata=MARK)


def _common(asked: DrawRequest, model: str | None) -> tuple[dict[str, Any], list[JobWarning]]:
    """The fields of any request of ours, and warnings about the sampler."""
    n = asked.batch_size * asked.n_iter
    if n > MAX_IMAGES:
        raise field_problem("n_iter", f"batch_size × n_iter must be at most {MAX_IMAGES}, got {n}")
    sampler, warnings = _sampler(asked)
    fields = {
        "prompt": asked.prompt, "negative_prompt": asked.negative_prompt, "steps": asked.steps, "n": n,
        "guidance_scale": asked.cfg_scale, "seed": None if asked.seed == -1 else asked.seed, "metadata": MARK,
        "model": _model(asked) or model, **sampler,
    }  # fmt: skip
    return fields, warnings


def _model(asked: DrawRequest) -> str:
    name = asked.override_settings.get("sd_model_checkpoint") or ""
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS:
        raise field_problem("override_settings", "sd_model_checkpoint must be a model's name, as in /sd-models")
    return name


def _sampler(asked: DrawRequest) -> tuple[dict[str, Any], list[JobWarning]]:
    """Of the samplers here, DDIM and the ancestral one have noise that eta scales, and the latter's is not scaled."""
    named = asked.sampler_name or asked.sampler_index
    sampler, spacing = read_sampler(named) if named else (None, "")
    schedule, warnings = read_spacing(sampler, {"sampler_name": spacing, "scheduler": asked.scheduler})
    if sampler in {None, "ddim"}:
        return {"sampler": sampler, "eta": asked.eta}, warnings
    if sampler == "euler_a" and asked.eta not in {None, 1.0}:
        warnings.append(JobWarning("field_ignored", "eta has no effect here on Euler a.", "/eta"))
    return {"sampler": sampler, "schedule": schedule}, warnings


def _init_image(asked: DrawRequest) -> Image.Image:
    if not asked.init_images:
        raise field_problem("init_images", "is required")
    return open_upright(asked.init_images[0], "init_images/0")


def _masked(asked: DrawRequest, image: Image.Image, size: Size) -> tuple[Image.Image, Image.Image, Box]:
    """The image, its soft mask, and the part that is drawn anew."""
    mask = open_white_mask(asked.mask, image.size, invert=asked.inpainting_mask_invert)
    if asked.inpaint_full_res:
        soft = softened(mask, asked.blur)
        return image, soft, closely(soft, asked.inpaint_full_res_padding, size)
    soft = softened(resized(mask, size, asked.resize_mode), asked.blur)
    return resized(image, size, asked.resize_mode), soft, (0, 0, *size)
