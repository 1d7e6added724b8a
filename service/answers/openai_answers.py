"""Answers of OpenAI's Images API, with the job that made the images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from service.answers.answers import JobWarning
from service.intake.vocabulary import ImageFormat
from worker.jobs import JobView


class ImageResult(BaseModel):
    """One image, in the form that `response_format` asks for."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class TokenDetails(BaseModel):
    """Tokens by kind."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """OpenAI's count of tokens. None are counted here: every number is 0."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    output_tokens_details: TokenDetails = TokenDetails()
    total_tokens: int = 0


class ImagesResponse(BaseModel):
    """OpenAI's answer, with the job that made it."""

    created: int
    data: list[ImageResult]
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat
    size: str
    usage: Usage = Usage()
    job_id: str
    warnings: list[JobWarning]


def size_of(view: JobView) -> str:
    """The size of a job's images, in pixels, as OpenAI writes it."""
    return "x".join(map(str, view.payload.size))


def warnings_of(view: JobView) -> list[JobWarning]:
    """A job's warnings as clients see them."""
    return [JobWarning(**warning.to_json()) for warning in view.warnings]


def event_of(view: JobView, name: str, image: str, form: str, about: Mapping[str, Any]) -> bytes:
    """One Server-Sent Event with an image in base64, in the fields of OpenAI's clients."""
    created = int(view.finished_at or view.started_at or view.created_at)
    told = {"type": name, "b64_json": image, "created_at": created, "size": size_of(view), "quality": "auto",
            "background": "opaque", "output_format": form, **about}  # fmt: skip
    return f"event: {name}\ndata: {json.dumps(told)}\n\n".encode()
