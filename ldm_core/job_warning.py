"""What a request or a model's files ask for and this service does not do: said, never passed over. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JobWarning:
    """One entry of a job's `warnings`.

    `code` is for programs and stays the same, `detail` is a sentence for people, `pointer` names the request's field
    as a JSON pointer; it is empty where no field is the cause.
    """

    code: str
    detail: str
    pointer: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def warnings_from_json(data: Iterable[Mapping[str, Any]]) -> tuple[JobWarning, ...]:
    """Reads what `JobWarning.to_json` wrote, here or in another version."""
    return tuple(JobWarning(str(w["code"]), str(w["detail"]), str(w.get("pointer", ""))) for w in data)
