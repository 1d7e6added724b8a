"""What AUTOMATIC1111's API tells: models, samplers, options, and what a PNG says; as `a1111.py` outside the OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request

from ldm_core.params import Task
from service.access.auth import ApiKey
from service.answers.infotext import parsed, read_infotext
from service.broker.broker import Broker
from service.dependencies import BrokerOf, PasswordCallerOf, password_caller_of
from service.http.memory import LARGE
from service.intake.body import read_json
from service.intake.repainting import png_texts
from service.intake.strict_json import field_problem
from service.intake.web_ui_names import ALIASES, LABELS, OVERRIDDEN, ignored_settings

router = APIRouter(prefix="/sdapi/v1", include_in_schema=False, dependencies=[Depends(password_caller_of)])

NOTHING: Mapping[str, Any] = {  # what web interfaces ask for when they start, and is not here
    **{name: [] for name in (
        "loras", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "sd-vae",
        "latent-upscale-modes",
    )},
    "cmd-flags": {}, "embeddings": {"loaded": {}, "skipped": {}}, "scripts": {"txt2img": [], "img2img": []},
}  # fmt: skip


def _add_nothing(name: str) -> None:
    async def get() -> Any:
        return NOTHING[name]

    router.add_api_route(f"/{name}", get, methods=["GET"])


for _name in NOTHING:
    _add_nothing(_name)


@router.api_route("/options", methods=["GET", "POST"])
async def options(request: Request, caller: PasswordCallerOf, broker: BrokerOf) -> Any:
    names = await _models(broker, caller, "txt2img")
    if request.method == "POST":
        return await _set_options(await read_json(request), [*names], caller, broker)
    chosen = await broker.chosen_model(caller.name) or next(iter(names), None)
    return {
        "sd_model_checkpoint": chosen,
        "samples_format": "png",
        **{name: kept[0] for name, kept in OVERRIDDEN.items()},
    }


async def _set_options(wanted: dict[str, Any], names: Sequence[str], caller: ApiKey, broker: Broker) -> Any:
    """Keeps the model; says which of the others have no effect."""
    model = wanted.pop("sd_model_checkpoint", None)
    if model is not None and model not in names:
        raise field_problem("sd_model_checkpoint", f"is not served here; there are {', '.join(names)}")
    if model is not None:
        await broker.chosen_model(caller.name, model)
    warnings = [warning.to_json() for warning in ignored_settings(wanted, "")]
    return {"warnings": warnings} if warnings else None


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    return [
        {"name": label, "aliases": [alias for alias, other in ALIASES.items() if other == name], "options": {}}
        for label, name in LABELS.items()
    ]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    own = {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0, "need_inner_model": False}
    labels = {"Karras": "karras", "Exponential": "exponential", "SGM Uniform": "sgm_uniform"}
    return [own, *({**own, "name": name, "label": label} for label, name in labels.items())]


@router.post("/refresh-checkpoints")
async def refresh_checkpoints() -> None:
    """Does nothing: what is served is read anew each time."""


@router.get("/sd-models")
async def sd_models(caller: PasswordCallerOf, broker: BrokerOf) -> list[dict[str, Any]]:
    names = await _models(broker, caller, "txt2img")
    return [
        {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
        for name in names
    ]


@router.get("/upscalers")
async def upscalers(caller: PasswordCallerOf, broker: BrokerOf) -> list[dict[str, Any]]:
    names = await _models(broker, caller, "superres")
    return [
        {"name": name, "model_name": name, "model_path": None, "model_url": None, "scale": scale}
        for name, scale in names.items()
    ]


async def _models(broker: Broker, caller: ApiKey, task: Task) -> dict[str, int]:
    """The caller's models for a task, its default first, and what each enlarges by."""
    cards = [model.card for model in await broker.models() if caller.may_use(model.card.id)]
    able = [card for card in cards if task in card.tasks]
    return {card.id: card.scale for card in sorted(able, key=lambda card: task not in card.default_for)}


@router.post("/png-info")
async def png_info(request: Request) -> dict[str, Any]:
    value = (await read_json(request)).get("image")
    if not isinstance(value, str):
        raise field_problem("image", "must be base64 or a data: URL")
    items = await to_thread.run_sync(png_texts, value, limiter=LARGE)
    text = read_infotext(items.get("parameters", ""))
    return {"info": text, "items": items, "parameters": parsed(text)}
