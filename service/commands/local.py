"""Draws without a server: the request is checked as the gateway does it, and drawn by a worker's parts."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ldm_core.card import ModelCard
from ldm_core.errors import LdmError, ModelError, RequestError
from ldm_core.model_directory.card_reader import check_directories, read_card
from ldm_core.params import Task
from service.access.auth import ANYONE
from service.commands.screen import Screen
from service.commands.stop import FAILED, USAGE, Stop
from service.commands.task_options import named
from service.errors import Problem
from service.intake.body import validated
from service.intake.inputs import Inputs
from service.intake.submission import prepare
from service.intake.tasks import REQUESTS
from worker.jobs import JobPayload, LiveModel
from worker.settings import WorkerSettings, read_settings

NO_LIMIT_S = 10**9


class Here:
    """The models of this machine, in place of those that live workers serve."""

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        beside = frozenset(card.id for card in cards)
        self._live = [LiveModel(card=card, workers=1, beside=beside) for card in cards]

    async def models(self, *, recent: bool = False) -> Sequence[LiveModel]:
        return self._live

    async def known_models(self) -> Mapping[str, frozenset[str]]:
        return {}


def draw(task: Task, fields: Mapping[str, Any], args: argparse.Namespace, screen: Screen) -> list[bytes]:
    """The files of the images. Raises Stop."""
    if find_spec("torch") is None:
        raise Stop("--local needs a worker, and none is installed here: in the clone, pip install '.[worker]'")
    settings = read_settings(WorkerSettings, model=",".join(args.model_dir) if args.model_dir else None)
    flag = partial(named, task)
    if args.preview:
        screen.say("warning: --preview: previews come from a server alone, there are none with --local")
    try:
        cards = _cards(settings.model_dirs)
        job, inputs = asyncio.run(_prepared(task, fields, list(cards.values())))
        screen.warn([(w.code, w.detail, w.pointer) for w in job.warnings], flag)
        return _drawn(job, inputs, settings, {card.id: path for path, card in cards.items()}, screen, flag)
    except Problem as problem:
        said = [f"{flag(pointer.lstrip('/'))}: {detail}" for pointer, detail in problem.errors if pointer]
        raise Stop("; ".join(said) or problem.detail, USAGE if problem.status < 500 else FAILED) from None
    except RequestError as error:
        raise Stop(f"{flag(error.field)}: {error.detail}", USAGE) from None
    except LdmError as error:
        raise Stop(str(error)) from None


def _cards(directories: Sequence[Path]) -> dict[Path, ModelCard]:
    """The card of each directory. Raises ModelError."""
    check_directories(directories)
    if not directories:
        raise ModelError("LDM_MODEL", "names no model directory, and none came with this installation")
    return {path: read_card(path) for path in directories}


async def _prepared(task: Task, fields: Mapping[str, Any], cards: Sequence[ModelCard]) -> tuple[JobPayload, Inputs]:
    """The job as the gateway would have made it. Raises RequestError, Problem."""
    body = validated(REQUESTS[task], dict(fields), strict=True)
    return await prepare(Here(cards), task, body, caller=ANYONE, request_id="", max_timeout_s=NO_LIMIT_S)


def _drawn(
    job: JobPayload, inputs: Inputs, settings: WorkerSettings, paths: Mapping[str, Path], screen: Screen, flag: Any
) -> list[bytes]:  # fmt: skip
    """Loads the models that the job needs, and no others."""
    from worker.process.alone import Alone

    screen.say(f"loading {' and '.join(each.model for each in job.passes)}")
    alone = Alone(settings, [paths[each.model] for each in job.passes])
    screen.warn([(w.code, w.detail, w.pointer) for w in alone.warnings(job)], flag)
    try:
        return alone.draw(job, inputs.images, lambda step: screen.step(step, job.steps * job.params.n))
    finally:
        screen.close()
