"""Draws one job in this process, without Redis: what `ldm txt2img --local` does, to a worker's bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from ldm_core.generate import generate
from ldm_core.job_warning import JobWarning
from worker.engine.encode import encode, parameters_of
from worker.jobs import CONTENT_TYPES, JobPayload, Pass
from worker.process.main import load_models, rows_of, seal_of
from worker.settings import WorkerSettings

Progress = Callable[[int], None]  # is given the steps that are done, of all passes and images


class Alone:
    """The models of one job. Raises ModelError and BadCredentials."""

    def __init__(self, settings: WorkerSettings, directories: Sequence[Path]) -> None:
        self._settings, self._seal = settings, seal_of(settings)
        paths = ",".join(map(os.fspath, directories))
        self._models = load_models(settings.model_copy(update={"model": paths}))

    def warnings(self, job: JobPayload) -> Iterator[JobWarning]:
        """What the networks cannot take in."""
        for each in job.passes:
            yield from self._models[each.model].condition.warnings(each.params)

    def draw(self, job: JobPayload, inputs: Mapping[str, bytes], progress: Progress) -> list[bytes]:
        """The files of the job's images, as a worker encodes them. Raises RequestError."""
        opened = {name: Image.open(io.BytesIO(data)) for name, data in inputs.items()}
        return [self._encoded(job, index, self._drawn(job, index, opened, progress)) for index in range(job.params.n)]

    def _drawn(
        self, job: JobPayload, index: int, given: Mapping[str, Image.Image], progress: Progress
    ) -> Image.Image:  # fmt: skip
        """One image after all passes."""
        done, image = index * job.steps, Image.new("RGB", (1, 1))
        for each in job.passes:
            (image,) = self._pass(each, index, given, partial(_counted, progress, done))
            done, given = done + each.params.steps, {"image": image}
        return image

    def _pass(
        self, each: Pass, index: int, given: Mapping[str, Image.Image], progress: Callable[[int, int], None]
    ) -> list[Image.Image]:  # fmt: skip
        model, alone = self._models[each.model], replace(each.params, seed=each.params.image_seed(index), n=1)
        neighbors = [image for name, image in given.items() if name.startswith("neighbor")]
        return generate(
            model, alone, given.get("image"), given.get("mask"), neighbors=neighbors,
            rows=rows_of(model, self._settings), progress=progress,
        )  # fmt: skip

    def _encoded(self, job: JobPayload, index: int, image: Image.Image) -> bytes:
        settings, parameters = self._settings, parameters_of(job, index) if self._settings.png_metadata else None
        quality = job.output_compression
        data = encode(image, job.format, parameters, provenance=settings.provenance, quality=quality)
        return data if self._seal is None else self._seal(data, CONTENT_TYPES[job.format])


def _counted(progress: Progress, before: int, step: int, steps: int) -> None:
    progress(before + step)
