"""Whole jobs through a worker's engine, from the request to the PNG: images a second, and a lone job's seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.batching import Bench as Jobs
from benchmarks.batching import inputs_of
from benchmarks.gpu.workloads import WORKLOADS, Bench, Result, model_of
from ldm_core.acceleration.accelerate import capture_on
from ldm_core.card import ModelCard
from ldm_core.model import LatentDiffusion
from ldm_core.params import GenerationParams
from worker.engine.request import Request
from worker.jobs import JobPayload

ROUNDS = 3  # of as many jobs as run at once
ROWS = (8, 16, 32)


def measure(bench: Bench, name: str) -> Iterator[Result]:
    """One job alone, then jobs enough for three rounds of every number of rows."""
    model, of_one = model_of(name, bench), WORKLOADS[name].rows
    for rows in [of_one, *(rows for rows in ROWS if rows in bench.rows)]:
        yield _jobs_of(bench, model, rows, rows // of_one)


def _jobs_of(bench: Bench, model: LatentDiffusion, rows: int, at_once: int) -> Result:
    """`at_once` jobs run together until `ROUNDS` times as many are done."""
    # graphs share a pool of memory that ends with the last of them: those of each engine have one of their own
    model = replace(model, capture=capture_on(bench.device))
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    jobs = [_job(model.card, seed) for seed in range(at_once if at_once == 1 else ROUNDS * at_once)]
    with Jobs({model.card.id: model}, {model.card.id: model.default_rows()}, rows) as engine:
        short = _shortened(jobs)
        prepare_s = engine.time_of(short, together=True) + engine.time_of(short[-1:], together=True)  # captures calls
        seconds = engine.time_of(jobs, together=True)
        together = engine.images[jobs[-1].key]
        lone_s = engine.time_of(jobs[-1:], together=True)
        same = engine.images[jobs[-1].key] == together
    return {
        "rows": rows, "jobs": len(jobs), "steps": model.card.default_steps, "prepare_s": round(prepare_s, 2),
        "images_s": len(jobs) / seconds, "lone_s": lone_s, "same_bytes_alone": same, "peak_gib": _peak(bench),
    }  # fmt: skip


def _job(card: ModelCard, seed: int) -> Request:
    task, (width, height) = card.tasks[0], card.native_size
    params = GenerationParams(
        task=task, width=width, height=height, steps=card.default_steps, seed=seed,
        guidance_scale=card.default_guidance_scale,
    )  # fmt: skip
    return Request(f"{seed}", JobPayload(id=f"{seed}", model=card.id, params=params), encoded=inputs_of(card, task))


def _shortened(jobs: list[Request]) -> list[Request]:
    """The same jobs with a fifth of the steps: all numbers of rows are run through."""
    return [
        replace(job, payload=replace(job.payload, params=replace(job.params, steps=max(4, job.params.steps // 5))))
        for job in jobs
    ]


def _peak(bench: Bench) -> float | None:
    """GiB of the GPU's memory that were in use at most."""
    return round(torch.cuda.max_memory_allocated(bench.device) / 2**30, 2) if bench.on_gpu else None
