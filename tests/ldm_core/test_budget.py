"""What is kept for each size stays within a number of bytes, however many sizes come."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from ldm_core.generate import generate
from ldm_core.lru_cache import BUDGET, Budget, LRUCache
from ldm_core.params import GenerationParams
from tests.tiny import tiny_models

LIMIT = 24 * 2**20  # more than the latest of each cache
GROWTH = 150 * 2**20  # bytes, of which caches are the smallest part: torch and its libraries keep some for themselves


def test_the_one_that_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(100)
    monkeypatch.setattr("ldm_core.lru_cache.BUDGET", budget)
    first, second = LRUCache[int](lambda size: size), LRUCache[int](lambda size: size)
    for key in "abc":
        first.get(key, lambda: 30, 9)
    first.get("a", lambda: 30, 9)
    second.get("d", lambda: 30, 9)
    assert [key in first for key in "abc"] == [True, False, True]
    assert ("d" in second, budget.nbytes) == (True, 90)


def test_the_latest_of_each_cache_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(100)
    monkeypatch.setattr("ldm_core.lru_cache.BUDGET", budget)
    caches = [LRUCache[int](lambda size: size) for _ in range(3)]
    for cache in caches:
        cache.get("large", lambda: 70, 9)
    assert all("large" in cache for cache in caches)
    del cache, caches
    gc.collect()
    assert budget.nbytes == 0


def test_what_a_cache_drops_by_itself_counts_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(100)
    monkeypatch.setattr("ldm_core.lru_cache.BUDGET", budget)
    cache = LRUCache[int](lambda size: size)
    for key in range(4):
        cache.get(key, lambda: 10, 2)
    assert budget.nbytes == 20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_sixty_sizes_once_each_keep_no_more_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUDGET, "limit", LIMIT)
    model = tiny_models()["scenes"]
    sizes = [(width, height) for width in range(16, 176, 16) for height in range(16, 112, 16)]
    assert len(sizes) == 60
    before, most = resident(), 0
    for width, height in sizes:
        params = GenerationParams(
            task="txt2img", prompt="a house", width=width, height=height, steps=3, seed=1, guidance_scale=3.0
        )
        generate(model, params)
        most = max(most, BUDGET.nbytes)
    assert LIMIT / 4 < most <= LIMIT
    assert resident() - before < GROWTH


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@torch.inference_mode()
def test_a_size_that_was_dropped_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models()["scenes"]
    params = GenerationParams(task="txt2img", prompt="a pine", width=64, height=64, steps=4, seed=1, guidance_scale=3.0)
    other = GenerationParams(task="txt2img", prompt="a pine", width=48, height=64, steps=4, seed=1, guidance_scale=3.0)
    before = generate(model, params)[0].tobytes()
    monkeypatch.setattr(BUDGET, "limit", 0)
    generate(model, other)
    assert generate(model, params)[0].tobytes() == before
