"""What live workers serve, in the OpenAI list envelope with our fields."""

from __future__ import annotations

from fastapi import APIRouter

from service.answers.answers import ModelList, model_of
from service.answers.openapi import problems
from service.dependencies import BrokerOf, CallerOf

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", summary="The models that live workers serve to the caller", responses=problems(503))
async def list_models(broker: BrokerOf, caller: CallerOf) -> ModelList:
    usable = [model_of(model) for model in await broker.models() if caller.may_use(model.card.id)]
    return ModelList(object="list", data=usable)
