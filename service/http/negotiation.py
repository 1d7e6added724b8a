"""The content types that a client accepts (`Accept`), and the encodings that it may send (`Content-Encoding`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.request import parse_http_list

from starlette.datastructures import Headers

from service.errors import Problem

WEIGHT = re.compile(r"q=(0(?:\.\d*)?|1(?:\.0*)?|\.\d+)", re.IGNORECASE)
ALIASES = {"image/jpg": "image/jpeg", "*": "*/*"}
MAX_RANGES = 50  # of one Accept; what comes behind them is not looked at


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One entry of `Accept`, such as `image/*;q=0.5`."""

    kind: str
    weight: float
    place: int

    def precision(self, media_type: str) -> int:
        """How closely it describes `media_type`: 3 by its name, 2 by `type/*`, 1 by `*/*`, 0 not at all."""
        if self.kind == media_type:
            return 3
        main = media_type.partition("/")[0]
        return 2 if self.kind == f"{main}/*" else int(self.kind == "*/*")


class Accept:
    """The `Accept` of a request (RFC 9110, 12.5.1). A missing or empty one accepts everything."""

    def __init__(self, values: Sequence[str]) -> None:
        parts = [part for part in parse_http_list(",".join(values)) if part.strip()][:MAX_RANGES]
        self._ranges = [_media_range(part, place) for place, part in enumerate(parts or ["*/*"])]

    def takes(self, media_type: str) -> bool:
        """Whether an answer of this type is acceptable."""
        return self._rank(media_type) is not None

    def best(self, offers: Sequence[str]) -> str | None:
        """The offer that the client prefers, None where it accepts none of them.

        Of offers of one weight the one named more precisely, then the one named first, then the first offer.
        """
        ranked = [(rank, offer) for offer in offers if (rank := self._rank(offer)) is not None]
        return max(ranked, key=lambda each: each[0])[1] if ranked else None

    def _rank(self, media_type: str) -> tuple[float, int, int] | None:
        matching = [(r.precision(media_type), -r.place, r.weight) for r in self._ranges if r.precision(media_type)]
        precision, place, weight = max(matching, default=(0, 0, 0.0))
        return (weight, precision, place) if weight > 0 else None


def _media_range(text: str, place: int) -> MediaRange:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    weights = [found[1] for parameter in parameters if (found := WEIGHT.fullmatch(parameter))]
    return MediaRange(ALIASES.get(kind, kind), float(weights[0]) if weights else 1.0, place)


def refuse_encoded(headers: Headers) -> None:
    """Raises Problem for a body in a `Content-Encoding`: none is decoded here."""
    encodings = [part.strip().lower() for value in headers.getlist("content-encoding") for part in value.split(",")]
    if any(encoding not in {"", "identity"} for encoding in encodings):
        detail = f"Send the body without Content-Encoding; {', '.join(encodings)[:80]} is not decoded here."
        raise Problem(415, detail, headers={"Accept-Encoding": "identity"})
