"""What live workers serve, in the OpenAI list envelope with our fields."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.dependencies import BrokerOf, CallerOf
from service.openapi import MODELS_CONTENT, PROBLEM_503
from worker.jobs import LiveModel

router = APIRouter(prefix="/v1", tags=["models"])


@router.get(
    "/models", summary="The models that live workers serve to the caller",
    responses={200: {"content": MODELS_CONTENT}, **PROBLEM_503},
)  # fmt: skip
async def list_models(broker: BrokerOf, caller: CallerOf) -> JSONResponse:
    usable = [_entry(model) for model in await broker.models() if caller.may_use(model.card.id)]
    return JSONResponse({"object": "list", "data": usable})


def _entry(model: LiveModel) -> dict[str, Any]:
    card = model.card.to_json()
    del card["noise_level"], card["tile"]
    return {"id": card.pop("id"), "object": "model", **card, "loaded": True, "workers": model.workers}
