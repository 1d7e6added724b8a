"""A job that draws and enlarges: two passes by two models in one job."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from ldm_core.params import GenerationParams
from tests.worker.engine_kit import Kept, inpaint, job, superres
from worker.engine.encode import Encoder
from worker.engine.request import Cancelled, Failed, Preview, Progress, Request
from worker.jobs import JobPayload, OtherVersion, Pass

STEPS, UPSCALER_STEPS = 4, 3


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def upscaled(of: Request, **changes: Any) -> Request:
    """The same job with each image enlarged four times."""
    drawn = of.params
    params = GenerationParams(
        task="superres", width=4 * drawn.width, height=4 * drawn.height, steps=UPSCALER_STEPS, guidance_scale=1.0,
        seed=drawn.seed, n=drawn.n, **changes,
    )  # fmt: skip
    return replace(of, payload=replace(of.payload, upscale=Pass(model="scenes-superres", params=params)))


def kept(**options: Any) -> Kept:
    """An engine whose images hold no parameters, so that those of two jobs can be equal."""
    return Kept(encoder=Encoder(png_metadata=False), **options)


def images(of: Request) -> list[bytes]:
    engine = kept()
    engine.submit(of)
    engine.run_all()
    return engine.images(of.key)


def size(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


@pytest.mark.parametrize("draw", [job(steps=STEPS, n=2), inpaint(steps=STEPS, eta=1.0)], ids=["txt2img", "inpaint"])
def test_it_is_the_super_resolution_of_the_image_with_that_images_seed(draw: Request) -> None:
    expected = [
        images(replace(superres(steps=UPSCALER_STEPS, seed=seed, width=256, height=256), encoded={"image": small}))
        for seed, small in zip(map(draw.params.image_seed, range(2)), images(draw), strict=False)
    ]
    assert [[data] for data in images(upscaled(draw))] == expected


def test_its_bytes_do_not_depend_on_who_shares_its_batches() -> None:
    of = upscaled(job("cascade", steps=STEPS, n=2))
    engine = kept(max_rows=5)
    engine.submit(of)
    for i in range(3):
        engine.submit(job(f"mate {i}", steps=2 + i, seed=i))
        engine.submit(superres(f"small {i}", steps=1 + i, seed=i))
    engine.run_all()
    assert engine.images("cascade") == images(replace(of, key="alone"))
    assert [size(data) for data in engine.images("cascade")] == [(256, 256)] * 2


def test_steps_count_over_both_passes() -> None:
    engine = kept()
    engine.submit(upscaled(job(steps=STEPS)))
    engine.run_all()
    steps = [event.step for event in engine.events if isinstance(event, Progress)]
    assert steps == list(range(1, STEPS + UPSCALER_STEPS + 1))
    assert [model for model, _, _ in engine.batches] == ["scenes"] * STEPS + ["scenes-superres"] * UPSCALER_STEPS


@pytest.mark.parametrize("steps", range(1, STEPS + UPSCALER_STEPS))
@pytest.mark.parametrize("decoded", [True, False], ids=["decoded", "not decoded"])
def test_another_engine_goes_on_in_either_pass_to_the_same_bytes(steps: int, decoded: bool) -> None:
    of = upscaled(job(steps=STEPS, eta=1.0, n=2), sampler="dpmpp_2m")
    first, second = kept(checkpoint_s=0.0), kept()
    first.submit(of)
    for _ in range(steps):
        first.engine.step()
        if decoded or (len(first.batches) == STEPS and steps > STEPS):
            first.finish()
    (saved,) = first.engine.save()
    second.engine.submit(replace(of, checkpoint=saved.encode()))
    second.run_all()
    assert second.images("job") == images(of)
    assert len(second.batches) == STEPS + UPSCALER_STEPS - steps, "it repeated steps, or left some out"


def test_between_its_passes_the_image_is_saved() -> None:
    of = upscaled(job(steps=STEPS))
    first, second = kept(checkpoint_s=0.0), kept()
    first.submit(of)
    for _ in range(STEPS):
        first.engine.step()
    first.finish()
    (saved,) = first.engine.save()
    second.engine.submit(replace(of, checkpoint=saved.encode()))
    second.run_all()
    assert [model for model, _, _ in second.batches] == ["scenes-superres"] * UPSCALER_STEPS
    assert second.images("job") == images(of)


def test_it_can_be_cancelled_while_it_is_enlarged() -> None:
    engine = kept()
    engine.submit(upscaled(job(steps=STEPS)))
    for _ in range(STEPS + 1):
        engine.engine.step()
        engine.finish()
    engine.engine.cancel("job")
    engine.run_all()
    assert engine.outcome("job") == Cancelled("job")
    assert len(engine.batches) == STEPS + 1


def test_one_that_is_cancelled_while_it_is_decoded_does_not_come_back() -> None:
    engine = kept()
    engine.submit(upscaled(job(steps=STEPS)))
    for _ in range(STEPS):
        engine.engine.step()
    engine.engine.cancel("job")
    engine.engine.step()
    engine.run_all()
    assert engine.outcome("job") == Cancelled("job")
    assert not engine.engine._scheduler.has_work()
    assert engine.engine.unfinished() == []


def test_previews_show_the_second_pass_too() -> None:
    engine = kept()
    engine.submit(upscaled(job(steps=STEPS)))
    for _ in range(STEPS):
        engine.engine.step()
        engine.finish()
    engine.engine.request_preview("job")
    engine.run_all()
    assert [event for event in engine.events if isinstance(event, Preview)]


def test_an_error_of_the_second_pass_is_the_jobs() -> None:
    of = upscaled(job(steps=STEPS))
    assert of.payload.upscale is not None
    beyond = replace(of.payload.upscale, params=replace(of.payload.upscale.params, steps=1000, sampler="ddim", n=1))
    engine = kept()
    engine.submit(replace(of, payload=replace(of.payload, upscale=replace(beyond, model="scenes"))))
    engine.run_all()
    failed = engine.outcome("job")
    assert isinstance(failed, Failed)
    assert "does not do superres" in str(failed.error)


def test_the_record_keeps_the_second_pass_and_older_workers_leave_it() -> None:
    payload = upscaled(job(steps=STEPS)).payload
    assert JobPayload.from_json(payload.to_json()) == payload
    assert JobPayload.to_run(payload.to_json()) == payload
    assert "upscale" not in job().payload.to_json()
    newer = payload.to_json()
    newer["upscale"]["params"]["sharpness"] = 3
    with pytest.raises(OtherVersion, match="upscale/params/sharpness"):
        JobPayload.to_run(newer)
    assert JobPayload.from_json(newer) == payload
