"""What a job asks for and will not get, as far as the request and the model's card tell; a worker may find more."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ldm_core.card import ModelCard
from ldm_core.job_warning import JobWarning
from ldm_core.params import GenerationParams
from service.intake.schemas import JobRequest

WORD = re.compile(r"[^\W\d_]+")
# emphasis (red:1.2), ((red)), [red], schedules [a:b:0.5], <lora:name:1>, BREAK: web interfaces' syntax, plain text here
SYNTAX = re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)|\(\([^()]*\)\)|\[[^\[\]]+\]|<(?:lora|lyco|hypernet):[^>]*>|\bBREAK\b")
MOST_WORDS = 8  # that a warning lists


def job_warnings(
    card: ModelCard, params: GenerationParams, body: JobRequest, *, one_image: bool
) -> tuple[JobWarning, ...]:
    """What is known at submit. `one_image`: the answer to the request is the bytes of the first image."""
    return (*card.warnings, *_of_text(card, params), *_of_size(card, params, body), *_of_count(params, one_image))


def _of_text(card: ModelCard, params: GenerationParams) -> Iterator[JobWarning]:
    for field in ("prompt", "negative_prompt"):
        text: str = getattr(params, field)
        if found := SYNTAX.search(text):
            detail = f"{found[0][:40]!r} is read as plain text: no weights, schedules or adapters are applied."
            yield JobWarning("prompt_syntax_ignored", detail, f"/{field}")
        if unknown := _unknown_words(card, text):
            listed = ", ".join(unknown[:MOST_WORDS]) + (", …" if len(unknown) > MOST_WORDS else "")
            detail = f"Model {card.id!r} was never trained with: {listed}. Its vocabulary is in /v1/models."
            yield JobWarning("words_unknown", detail, f"/{field}")
    if params.negative_prompt and params.guidance_scale == 1:
        detail = "It has no effect at guidance_scale 1, where no guidance is computed."
        yield JobWarning("negative_prompt_ignored", detail, "/negative_prompt")


def _unknown_words(card: ModelCard, text: str) -> list[str]:
    """Each once, in the order of the text."""
    if card.vocabulary is None:
        return []
    return list(dict.fromkeys(word for word in WORD.findall(text.lower()) if word not in card.vocabulary))


def _of_size(card: ModelCard, params: GenerationParams, body: JobRequest) -> Iterator[JobWarning]:
    """Super-resolution sees windows of its native size, whatever the image's; all others see the whole of it."""
    width, height = card.native_size
    if params.task == "superres" or (params.width <= width and params.height <= height):
        return
    given = next((name for name in ("image", "map") if getattr(body, name, None) is not None), "width")
    detail = f"{params.width}x{params.height} is beyond {width}x{height}, which model {card.id!r} was trained for."
    yield JobWarning("size_untrained", f"{detail} Things may come out doubled or out of place.", f"/{given}")


def _of_count(params: GenerationParams, one_image: bool) -> Iterator[JobWarning]:
    if one_image and params.n > 1:
        detail = f"{params.n} images are drawn and the answer is the first; its Link headers lead to the others."
        yield JobWarning("one_image_answered", detail, "/n")
