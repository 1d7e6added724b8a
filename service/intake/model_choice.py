"""Which live model takes a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ldm_core.card import ModelCard
from ldm_core.errors import InvalidImage, InvalidParameter, RequestError, UnsupportedTask
from ldm_core.params import GenerationParams, Task
from service.access.auth import ApiKey, Forbidden
from service.errors import Problem
from worker.jobs import LiveModel


class Catalogue(Protocol):
    """Who knows which models are served: a broker, or whoever serves itself alone."""

    async def models(self, *, recent: bool = False) -> Sequence[LiveModel]: ...

    async def known_models(self) -> Mapping[str, frozenset[str]]: ...


async def find_card(
    broker: Catalogue, task: Task, name: str | None, caller: ApiKey, *, beside: str | None = None
) -> ModelCard:
    """Chooses among the models read a moment ago, and reads them anew before it refuses a request.

    With `beside`, only models that some worker serves together with that one. Raises Problem, RequestError, Forbidden.
    """

    def choose(live: Sequence[LiveModel]) -> ModelCard:
        return _choose([model for model in live if beside is None or beside in model.beside], task, name, caller)

    try:
        return choose(await broker.models(recent=True))
    except (Problem, RequestError, Forbidden):
        live = await broker.models()
    try:
        return choose(live)
    except RequestError:
        if away := _away(await broker.known_models(), live, task, name, caller):
            detail = f"No worker serves {away[:80]!r} at the moment; try again soon."
            raise Problem(503, detail, headers={"Retry-After": "5"}) from None
        raise


async def find_upscaler(broker: Catalogue, card: ModelCard, drawn: GenerationParams, caller: ApiKey) -> ModelCard:
    """The super-resolution model that enlarges what `card`'s model has drawn, on the same worker.

    Raises what `find_card` raises, and InvalidParameter where there is none or the image is too large for it.
    """
    caller.check_task("superres")
    try:
        upscaler = await find_card(broker, "superres", None, caller, beside=card.id)
        upscaler.check_input_size("upscale", drawn.width, drawn.height)
    except UnsupportedTask:
        raise InvalidParameter("upscale", f"no super-resolution model is served beside {card.id!r}") from None
    except InvalidImage as error:
        raise InvalidParameter("upscale", f"the image {error.detail}") from None
    return upscaler


def _away(
    known: Mapping[str, frozenset[str]], live: Sequence[LiveModel], task: Task, name: str | None, caller: ApiKey
) -> str | None:
    """The id of the model that would take the job if its worker were live, None if there is none."""
    gone = known.keys() - {model.card.id for model in live}
    wanted = [
        model for model in sorted(gone) if task in known[model] and caller.may_use(model) and name in {None, model}
    ]
    able = any(task in model.card.tasks for model in live)
    return wanted[0] if wanted and (name is not None or not able) else None


def _choose(models: Sequence[LiveModel], task: Task, name: str | None, caller: ApiKey) -> ModelCard:
    """The model called `name`; without a name, the task's default or any model for it among those of the caller."""
    cards = [model.card for model in models]
    if not cards:
        raise Problem(503, "No worker is there to take the job; try again soon.", headers={"Retry-After": "5"})
    if name is not None:
        caller.check_model(name)
        card = next((card for card in cards if card.id == name), None)
        if card is None:
            known = ", ".join(card.id for card in cards if caller.may_use(card.id))
            raise InvalidParameter("model", f"{name[:80]!r} is not served here; there are {known}")
    else:
        able = [card for card in cards if task in card.tasks]
        if not able:
            raise UnsupportedTask("model", f"no model served here does {task}")
        allowed = [card for card in able if caller.may_use(card.id)]
        if not allowed:
            caller.check_model(able[0].id)
        card = next((card for card in allowed if task in card.default_for), allowed[0])
    card.check_task(task)
    return card
