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
from worker.jobs import JobPayload, Pass
from worker.process.main import encoder_of, load_models, rows_of
from worker.settings import WorkerSettings

Progress = Callable[[int], None]  # is given the steps that are done, of all passes and images


class Alone:
    """The models of one job. Raises ModelError and BadCredentials."""

    def __init__(self, settings: WorkerSettings, directories: Sequence[Path]) -> None:
        self._settings, self._encode = settings, encoder_of(settings)
        paths = ",".join(map(os.fspath, directories))
        self._models = load_models(settings.model_copy(update={"model": paths}))

    def warnings(self, job: JobPayload) -> Iterator[JobWarning]:
        """What the networks cannot take in."""
        for each in job.passes:
            yield from self._models[each.model].condition.warnings(each.params)

    def draw(self, job: JobPayload, inputs: Mapping[str, bytes], progress: Progress) -> list[bytes]:
        """The files of the job's images, as a worker encodes them. Raises RequestError."""
        opened = {name: Image.open(io.BytesIO(data)) for name, data in inputs.items()}
        return [self._encode(job, i, self._drawn(job, i, opened, progress)) for i in range(job.params.n)]

    def _drawn(
        self, job: JobPayload, index: int, given: Mapping[str, Image.Image], progress: Progress
    ) -> Image.Image:  # fmt: skip
        """One image after all passes."""
        done = index * job.steps
        for each in job.passes:
            given = {"image": self._pass(each, index, given, partial(_counted, progress, done))}
            done += each.params.steps
        return given["image"]

    def _pass(
        self, each: Pass, index: int, given: Mapping[str, Image.Image], progress: Callable[[int, int], None]
    ) -> Image.Image:  # fmt: skip
        model, alone = self._models[each.model], replace(each.params, seed=each.params.image_seed(index), n=1)
        neighbors = [image for name, image in given.items() if name.startswith("neighbor")]
        (image,) = generate(
            model, alone, given.get("image"), given.get("mask"), neighbors=neighbors,
            rows=rows_of(model, self._settings), progress=progress,
        )  # fmt: skip
        return image


def _counted(progress: Progress, before: int, step: int, steps: int) -> None:
    progress(before + step)
