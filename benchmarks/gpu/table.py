"""Lines of results as the table in benchmarks/results/gpu.md; what no line tells is "not measured"."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Shown = Callable[[Result], str]
BEGINNING = """# On a GPU

Filled by `python -m benchmarks.gpu --table results.txt` from what `python -m benchmarks.gpu > results.txt` prints on
the machine. Weights are random; jobs go through a worker's engine from the request to the PNG.

"""


@dataclass(frozen=True)
class Figure:
    """One line of the table: the results of a stage that have all of `of`, the best of which is shown."""

    what: str
    asked: str
    stage: str
    of: Result
    key: str
    unit: str = ""
    smallest: bool = False

    def line(self, results: Sequence[Result]) -> str:
        found = [each for each in results if self._is_meant(each)]
        command = f"`--stages {self.stage}`"
        return f"| {self.what} | {self.asked} | {self._best(found) if found else 'not measured'} | {command} |"

    def _is_meant(self, result: Result) -> bool:
        wanted = {"stage": self.stage, **self.of}
        return self._value(result) is not None and all(result.get(key) == value for key, value in wanted.items())

    def _best(self, found: Sequence[Result]) -> str:
        best = (min if self.smallest else max)(found, key=self._value)
        rows = "" if "rows" in self.of or "rows" not in best else f", {best['rows']} rows"
        return f"{_number(self._value(best))}{self.unit}{rows}"

    def _value(self, result: Result) -> Any:
        """What a key of keys, parted by points, leads to."""
        value: Any = result
        for name in self.key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


SD1 = {"model": "sd1-512"}
MODELS = {
    "sd1-512": "Stable Diffusion 1.x, 512²", "txt2img-256": "txt2img-1p4B, 256²",
    "superres-256": "super-resolution to 256²", "inpainting-512": "inpainting, 512²",
}  # fmt: skip
FIGURES = [
    Figure("Stable Diffusion 1.x, 512², 50 steps, guidance, 16 rows", "≥ 4.2 images/s", "images",
           {**SD1, "rows": 16}, "images_s", " images/s"),
    Figure("the same, one job alone", "≤ 0.6 s", "images", SD1, "lone_s", " s", smallest=True),
    Figure("super-resolution to 256², 100 steps", "≥ 40 images/s", "images", {"model": "superres-256"}, "images_s",
           " images/s"),
    Figure("inpainting, 512², 50 steps", "≥ 5 images/s", "images", {"model": "inpainting-512"}, "images_s",
           " images/s"),
    Figure("txt2img-1p4B, 256², 50 steps, guidance", "", "images", {"model": "txt2img-256"}, "images_s", " images/s"),
    *(Figure(f"a step of 16 rows against compiled diffusers: {title}", "≥ 1.3 ×", "compiled",
             {"model": model, "rows": 16}, "x_compiled", " ×") for model, title in MODELS.items()),
    *(Figure(f"a step of {rows} rows, Stable Diffusion 1.x, 512²", "", "steps", {**SD1, "rows": rows}, "ms.ours", " ms")
      for rows in (1, 2, 4, 8, 16, 32)),
    Figure("a step of 16 rows against eager diffusers", "", "steps", {**SD1, "rows": 16}, "x_diffusers", " ×"),
    Figure("a step of 2 rows captured against eager", "", "steps", {**SD1, "rows": 2}, "x_eager", " ×"),
    Figure("from start to ready, Stable Diffusion 1.x, Triton's kernels cached", "≤ 20 s", "start",
           {**SD1, "kernels": "cached"}, "ready_s", " s", smallest=True),
    Figure("from start to ready, Triton's kernels compiled anew", "", "start", {**SD1, "kernels": "compiled"},
           "ready_s", " s", smallest=True),
    *(Figure(f"U-Net rows with the same bits in every call: {title}", "all", "bits", {"model": model}, "all_same")
      for model, title in MODELS.items()),
    Figure("layers of Stable Diffusion 1.x that run in pieces", "", "bits", SD1, "in_pieces"),
    Figure("a PNG alone and in company, Stable Diffusion 1.x, 16 rows", "same bytes", "images", {**SD1, "rows": 16},
           "same_bytes_alone"),
    Figure("decoding to 512², Stable Diffusion's decoder", "", "decode", SD1, "ms.ours", " ms", smallest=True),
    Figure("p99 of a step of 16 rows, without decodes", "", "p99", SD1, "alone_ms.p99", " ms", smallest=True),
    Figure("p99 of a step of 16 rows, with decodes beside", "", "p99", SD1, "beside_decodes_ms.p99", " ms",
           smallest=True),
    Figure("kernels of a replayed step of 16 rows", "", "kernels", {**SD1, "rows": 16}, "kernels", smallest=True),
]  # fmt: skip


def table(lines: Iterable[str]) -> str:
    """Markdown. Raises ValueError for lines that are not JSON, or that were measured in different environments."""
    results = [json.loads(line) for line in lines if line.strip()]
    environments = {each["environment"] for each in results if "environment" in each}
    if len(environments) > 1:
        raise ValueError(f"the lines were measured in different environments: {sorted(environments)}")
    where = f"Measured on {environments.pop()}." if environments else "**Never run on a GPU so far.**"
    rows = [figure.line(results) for figure in FIGURES]
    failed = [f"- {each['stage']}: {each['failed']}" for each in results if "failed" in each]
    parts = [f"{BEGINNING}{where}", "\n".join(["| | asked | measured | |", "| --- | --- | --- | --- |", *rows])]
    return "\n\n".join([*parts, *(["Failed:\n\n" + "\n".join(failed)] if failed else [])]) + "\n"


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
