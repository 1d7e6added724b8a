"""A job that another worker goes on with ends in the bytes of the undisturbed one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from ldm_core.acceleration import native
from ldm_core.params import EVALUATED_TWICE
from tests.tiny import tiny_models
from tests.worker.engine_kit import Kept, inpaint, job, superres
from worker.engine.checkpoint import Checkpoint, fingerprint
from worker.engine.request import Request, Saved


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


JOBS = {
    "ddim": job(steps=6),
    "ddim with noise": job(steps=6, eta=1.0),
    "dpmpp_2m": job(steps=6, sampler="dpmpp_2m"),
    "plms": job(steps=6, sampler="plms"),
    "heun": job(steps=6, sampler="heun"),
    "dpmpp_sde": job(steps=6, sampler="dpmpp_sde", schedule="karras"),
    "euler_a": job(steps=6, sampler="euler_a"),
    "ddpm": job(steps=6, sampler="ddpm"),
    "several pictures": job(steps=6, n=3, eta=0.5),
    "inpainting": inpaint(steps=6, eta=1.0),
    "super-resolution": superres(steps=6, sampler="plms"),
}


def undisturbed(of: Request) -> list[bytes]:
    kept = Kept()
    kept.submit(of)
    kept.run_all()
    return kept.images(of.key)


def saved_after(of: Request, steps: int) -> bytes:
    """What the first of two engines leaves; another job shares its batches."""
    kept = Kept(checkpoint_s=0.0)
    kept.submit(of)
    kept.engine.submit(job("mate", steps=20, seed=99))
    for _ in range(steps):
        kept.engine.step()
    saved = [event for event in kept.events if isinstance(event, Saved) and event.key == of.key]
    once_more, twice = of.params.sampler == "plms", of.params.sampler in EVALUATED_TWICE
    assert saved[-1].step == (steps // 2 if twice else steps - once_more)
    return saved[-1].encode()


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", JOBS)
def test_the_second_engine_ends_in_the_same_bytes(name: str, steps: int) -> None:
    of = JOBS[name]
    kept = Kept()
    kept.engine.submit(replace(of, checkpoint=saved_after(of, steps)))
    kept.run_all()
    assert kept.images(of.key) == undisturbed(of)
    models = [model for model, _, _ in kept.batches]
    twice = of.params.sampler in EVALUATED_TWICE
    evaluations = 2 * of.params.steps - 1 if twice else of.params.steps + (of.params.sampler == "plms")
    assert len(models) == evaluations - steps, "it began over"


def test_pictures_that_were_done_are_kept() -> None:
    of = job(n=2, steps=3)
    kept = Kept(max_rows=2, checkpoint_s=0.0)  # one image after the other
    kept.submit(of)
    for _ in range(4):
        kept.engine.step()
        kept.finish()
    (*_, saved) = [event for event in kept.events if isinstance(event, Saved)]
    second = Kept(max_rows=2)
    second.engine.submit(replace(of, checkpoint=saved.encode()))
    second.run_all()
    assert second.images("job") == undisturbed(of)
    assert len(second.batches) == 2


def test_what_is_saved_at_the_end_of_a_drain_can_be_resumed() -> None:
    of = job(steps=6)
    first, second = Kept(), Kept()
    first.submit(of)
    first.engine.submit(job("not begun", steps=6))
    first.engine._cancelled.add("not begun")
    for _ in range(3):
        first.engine.step()
    assert first.engine.stop(0.0) == ["job"]
    (saved,) = first.engine.save()
    second.engine.submit(replace(of, checkpoint=saved.encode()))
    second.run_all()
    assert second.images("job") == undisturbed(of)
    assert len(second.batches) == 3


def test_where_the_bytes_would_differ_the_job_starts_over() -> None:
    of = job(steps=4)
    elsewhere = saved_after(of, 2)
    about = json.loads(json.loads(elsewhere[8 : 8 + int.from_bytes(elsewhere[:8], "little")])["__metadata__"]["about"])
    about["place"] = about["place"].replace("2 rows", "16 rows")
    moved = save(load(elsewhere), {"about": json.dumps(about)})
    for checkpoint in (moved, elsewhere[:-50], elsewhere[:20], b"", b"\xff" * 400):
        kept = Kept()
        kept.engine.submit(replace(of, checkpoint=checkpoint))
        kept.run_all()
        assert kept.images("job") == undisturbed(of)
        assert len(kept.batches) == 4


def test_a_checkpoint_is_small_and_has_no_pickle_in_it() -> None:
    data = saved_after(job(steps=6), 3)
    assert len(data) < 64 * 1024
    assert Checkpoint.from_bytes(data, "elsewhere") is None
    assert {name.partition(".")[2] for name in load(data)} == {"x", "noise"}  # DDIM remembers nothing


def test_other_arithmetic_makes_it_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models()["scenes"]
    plain = fingerprint(model, 2)
    have = native.present()
    monkeypatch.setattr(native, "present", lambda: not have)
    assert fingerprint(model, 2) != plain
    monkeypatch.setattr(native, "present", lambda: True)
    here = fingerprint(model, 2)
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert fingerprint(model, 2) != here
