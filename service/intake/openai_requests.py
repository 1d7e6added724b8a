"""The shape of requests in OpenAI's Images API: its fields, beside those of /v1/txt2img."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ldm_core.params import MAX_PROMPT_CHARS
from service.intake.schemas import ImageData
from service.intake.tasks import InpaintRequest, Txt2ImgRequest
from service.intake.vocabulary import ImageFormat

SIZE = "^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"


class OpenAIRequest(Txt2ImgRequest):
    """OpenAI's fields that all three routes take, beside those of /v1/txt2img."""

    size: str | None = Field(default=None, pattern=SIZE, description="`WIDTHxHEIGHT`, or `auto`")
    response_format: Literal["b64_json", "url"] | None = Field(default=None, description="b64_json otherwise")
    output_format: ImageFormat | None = Field(default=None, description="the same as `format`")
    user: str | None = Field(default=None, description="taken, and not used")
    safety_identifier: str | None = Field(default=None, description="taken, and not used")


class StreamedRequest(OpenAIRequest):
    """What may be answered with a stream."""

    stream: bool = Field(default=False, description="answers with Server-Sent Events")
    partial_images: int = Field(default=0, ge=0, le=3, description="at most so many previews in the stream")
    background: str | None = Field(
        default=None, pattern="^(opaque|auto|transparent)$", description="`opaque` or `auto`; none is transparent here"
    )
    quality: str | None = Field(default=None, max_length=20, description="`auto`; others are not heeded")
    moderation: str | None = Field(default=None, max_length=20, description="taken: there is none here")


class ImageGenerationRequest(StreamedRequest):
    """A prompt to images."""

    style: str | None = Field(default=None, max_length=20, description="not heeded: see `warnings`")


class ImageEditForm(StreamedRequest):
    """An image to images: anew where `mask` or `image` is transparent; without either, all of it by `strength`."""

    image: ImageData = Field(description="a file part `image`, or `image[]` for each of several")
    mask: ImageData | None = Field(default=None, description="transparent where `image` shall be drawn anew")
    input_fidelity: str | None = Field(default=None, max_length=20, description="not heeded: see `warnings`")

    @model_validator(mode="before")
    @classmethod
    def _first_is_the_image(cls, data: dict[str, Any]) -> dict[str, Any]:
        """What comes behind the first image is something to look at, for models that do."""
        several = data.pop("image[]", None)
        if several is None:
            return data
        if {"image", "neighbors"} & data.keys():
            raise ValueError("image[] goes without image and neighbors")
        return {**data, "image": several[0], **({"neighbors": several[1:]} if several[1:] else {})}


class ImageVariationForm(OpenAIRequest):
    """An image to others like it."""

    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARS)
    image: ImageData = Field(description="a file part")


class OpenAIInpainting(InpaintRequest):
    """An edit as a request to inpaint: its mask says by transparency what is drawn anew, whatever its colours."""

    mask_by_alpha: ClassVar[bool] = True
