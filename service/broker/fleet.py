"""What live workers serve, as they publish it in Redis."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ldm_core.card import ModelCard
from service.broker.single_flight import SingleFlight
from worker.jobs import LiveModel
from worker.store import scripts
from worker.store.keys import Key

log = logging.getLogger(__name__)

MODELS_S = 0.5  # for how long a submit may still believe what workers served


class Fleet:
    """All workers on one Redis. Caches their models for MODELS_S seconds."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._recent = SingleFlight(self.models, MODELS_S)

    async def models(self) -> Sequence[LiveModel]:
        """Their models in the order of ids."""
        return _models(await scripts.served.arun(self._redis))

    async def recent_models(self) -> Sequence[LiveModel]:
        """The same as of at most `MODELS_S` ago."""
        return await self._recent.get()

    async def known(self) -> Mapping[str, frozenset[str]]:
        """The tasks of every model, by its id, that a worker served in the last days, also of those that are away."""
        found: dict[str, frozenset[str]] = {}
        for entry in await self._redis.zrange(Key.KNOWN_MODELS, 0, -1):
            model = json.loads(entry)
            found[model["id"]] = found.get(model["id"], frozenset()) | frozenset(model["tasks"])
        return found


def _models(published: Sequence[tuple[bytes, bytes]]) -> list[LiveModel]:
    served = [_cards(text) for text, _ in published]
    latest = {card.id: card for cards in served for card in cards}
    workers = Counter(card.id for cards in served for card in cards)
    beside: dict[str, frozenset[str]] = {}
    for ids in (frozenset(card.id for card in cards) for cards in served):
        beside |= {model: beside.get(model, frozenset()) | ids for model in ids}
    taken = [json.loads(text) for _, text in published]
    rows, steps = ({id_: sum(each.get(id_, (0, 0))[i] for each in taken) for id_ in latest} for i in (0, 1))
    return [
        LiveModel(card=latest[id_], workers=workers[id_], beside=beside[id_], rows=rows[id_], steps=steps[id_])
        for id_ in sorted(latest)
    ]


@lru_cache(maxsize=256)
def _cards(published: bytes) -> tuple[ModelCard, ...]:
    """What a worker publishes, which changes only when it starts."""
    cards: list[ModelCard] = []
    for record in _list(published):
        try:
            cards.append(ModelCard.from_record(record))
        except (TypeError, ValueError, KeyError, AttributeError):
            log.warning("a model's card cannot be read, its worker is of another version: %.80r", record)
    return tuple(cards)


def _list(published: bytes) -> list[Any]:
    try:
        records = json.loads(published)
    except ValueError:
        records = None
    if not isinstance(records, list):
        log.warning("what a worker publishes cannot be read: %.80r", published)
        return []
    return records
