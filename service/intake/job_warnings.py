"""Warnings of what a job asks for and will not get, by its request and its model's card; a worker may add some."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ldm_core.card import ModelCard
from ldm_core.job_warning import JobWarning
from ldm_core.params import GenerationParams
from service.intake.schemas import JobRequest
from worker.jobs import CONTENT_TYPES

# words, numbers and signs; punctuation and the brackets of web interfaces' syntax are left out
WORD = re.compile(r"""[^\W\d_]+|\d+|[^\w\s.,;:!?'"()\[\]{}<>|/+…–—-]""")
# what web interfaces read as more than text
SYNTAX = re.compile(
    r"\([^()]*:\s*\d*\.?\d+\s*\)|\(\([^()]*\)\)|\[[^\[\]]+\]"  # (red:1.2), ((red)), [red], [a:b:0.5]
    r"|\([^()]*\)\d*\.?\d+|[\w)](?:\+\+|--(?!\S))"  # (red)1.2, red++, red--
    r"|\{[^{}|]*\|[^{}]*\}|<(?:lora|lyco|hypernet):[^>]*>|\bBREAK\b|(?<=[a-z,.] )AND(?=\s)"  # {a|b}, <lora:a:1>
)
MOST_WORDS = 8  # that a warning lists


def job_warnings(
    card: ModelCard, params: GenerationParams, body: JobRequest, *, one_image: bool, format_accepted: bool
) -> tuple[JobWarning, ...]:
    """The warnings that are known at submit.

    `one_image`: the answer to the request is the bytes of the first image; `format_accepted`: in a format that the
    request's `Accept` takes.
    """
    of_answer = _of_answer(params, body, format_accepted) if one_image else ()
    return (*card.warnings, *_of_text(card, params), *_of_size(card, params, body), *_of_format(body), *of_answer)


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
    for field, default in (("guidance_start", 0), ("guidance_end", 1)):
        if getattr(params, field) != default and params.guidance_scale == 1:
            detail = "It has no effect at guidance_scale 1, where no guidance is computed."
            yield JobWarning("guidance_interval_ignored", detail, f"/{field}")


def _unknown_words(card: ModelCard, text: str) -> list[str]:
    """Each once, in the order of the text."""
    if card.vocabulary is None:
        return []
    unknown = dict.fromkeys(word for word in WORD.findall(text.lower()) if word not in card.vocabulary)
    return [word if word.isprintable() else repr(word) for word in unknown]


def _of_size(card: ModelCard, params: GenerationParams, body: JobRequest) -> Iterator[JobWarning]:
    """Super-resolution sees windows of its native size, whatever the image's; all others see the whole of it."""
    width, height = card.native_size
    if params.task == "superres" or (params.width <= width and params.height <= height):
        return
    given = next((name for name in ("image", "map") if getattr(body, name, None) is not None), "width")
    detail = f"{params.width}x{params.height} is beyond {width}x{height}, which model {card.id!r} was trained for."
    yield JobWarning("size_untrained", f"{detail} Things may come out doubled or out of place.", f"/{given}")


def _of_format(body: JobRequest) -> Iterator[JobWarning]:
    if body.format == "png" and body.output_compression is not None:
        yield JobWarning("output_compression_ignored", "A PNG loses nothing, whatever it is.", "/output_compression")


def _of_answer(params: GenerationParams, body: JobRequest, format_accepted: bool) -> Iterator[JobWarning]:
    if params.n > 1:
        detail = f"{params.n} images are drawn; an image as answer is the first, its Link headers lead to the others."
        yield JobWarning("one_image_answered", detail, "/n")
    if not format_accepted:
        detail = f"The image is {CONTENT_TYPES[body.format]}, as `format` asks, though Accept does not take that."
        yield JobWarning("accept_overruled", detail, "/format")
