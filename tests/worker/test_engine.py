"""The engine over tiny real models: what shares a batch, what leaves it, and that nobody's bytes depend on either."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from ldm_core.errors import DeadlineExceeded, NonFiniteLatents, RequestError
from ldm_core.generate import generate
from ldm_core.sampling.sample import Sample
from tests.tiny import tiny_models
from tests.worker.engine_kit import Kept, inpaint, job, picture, png, superres
from worker.engine.encode import Encoder, encode, parameters_of
from worker.engine.request import (
    PREVIEW_S,
    PREVIEW_SHARE,
    Cancelled,
    Failed,
    Finished,
    ImageRun,
    Preview,
    Progress,
    Request,
)
from worker.leasing.heartbeat import Watchdog


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def alone(of: Request) -> list[bytes]:
    kept = Kept()
    kept.submit(of)
    kept.run_all()
    return kept.images(of.key)


def mixed(seed: int) -> list[Request]:
    """Fifteen jobs of every kind."""
    rng = random.Random(seed)
    kinds = [job, inpaint, superres]
    return [
        rng.choice(kinds)(
            f"mate-{i}",
            steps=rng.randint(1, 6),
            seed=rng.randrange(2**32),
            eta=rng.choice([0.0, 0.7]),
            guidance_scale=rng.choice([1.0, 3.0, 7.5]),
            n=rng.randint(1, 2),
            prompt=rng.choice(["", "a pine in the snow", "a boat at night"]),
        )
        for i in range(15)
    ]


@pytest.mark.parametrize(
    "of",
    [
        job(),
        job(eta=1.0, n=2),
        job(guidance_scale=1.0, steps=5),
        job(width=96, format="webp"),
        inpaint(),
        superres(),
        superres(guidance_scale=2.0, prompt="a house"),
    ],
    ids=["txt2img", "eta-n2", "unguided", "wide-webp", "inpaint", "superres", "superres-guided"],
)
def test_bytes_do_not_depend_on_who_shares_the_batch(of: Request) -> None:
    expected = alone(of)
    for seed in range(2):
        kept = Kept()
        mates = mixed(seed)
        for mate in mates[:8]:
            kept.engine.submit(mate)
        kept.engine.step()
        kept.submit(of)
        for mate in mates[8:]:
            kept.engine.submit(mate)
            kept.engine.step()
        kept.run_all()
        assert kept.images(of.key) == expected
        assert all(isinstance(kept.outcome(mate.key), Finished) for mate in mates)


def test_the_engine_gives_what_the_reference_loop_gives() -> None:
    of = job(n=2)
    pictures = generate(tiny_models()["scenes"], of.params, rows=2)
    assert alone(of) == [encode(p, "png", parameters_of(of.payload, i)) for i, p in enumerate(pictures)]


def test_image_i_has_the_bytes_of_a_job_of_its_own() -> None:
    assert alone(job(n=2))[1] == alone(job(seed=12))[0]


def test_tasks_steps_and_guidance_share_one_call_and_a_new_job_joins_at_the_next_step() -> None:
    kept = Kept()
    kept.engine.submit(job("a", steps=5))
    kept.engine.step()
    assert kept.batches == [("scenes", 2, 0)]
    kept.engine.submit(inpaint("b", steps=3))
    kept.engine.submit(job("c", guidance_scale=1.0, steps=2))
    kept.engine.step()
    assert [rows for _, rows, _ in kept.batches[1:]] == [5]
    assert kept.batches[1][2] in {1, 3}  # in calls of two, or of what this machine found to be faster
    assert kept.running == {"scenes": 5, "scenes-superres": 0}
    kept.run_all()
    # c leaves after two steps, b after three, a after five
    assert [rows for _, rows, _ in kept.batches] == [2, 5, 5, 4, 2]


def test_progress_counts_the_slowest_picture_and_comes_before_the_outcome() -> None:
    kept = Kept(max_rows=2)
    kept.engine.submit(job(n=2))
    kept.run_all()
    steps = [event.step for event in kept.events if isinstance(event, Progress)]
    assert steps == [0, 0, 0, 1, 2, 3]
    assert isinstance(kept.events[-1], Finished)


def test_a_cancelled_job_leaves_before_the_next_step_and_its_mates_go_on() -> None:
    kept = Kept()
    kept.engine.submit(job("stays"))
    kept.engine.submit(job("goes", steps=100))
    kept.engine.step()
    kept.engine.cancel("goes")
    kept.run_all()
    assert kept.outcome("goes") == Cancelled("goes")
    assert [rows for _, rows, _ in kept.batches] == [4, 2, 2]
    assert kept.images("stays") == alone(job("stays"))
    kept.engine.cancel("stays")
    kept.engine.cancel("never seen")
    assert not kept.engine.step()


def test_a_job_past_its_deadline_fails_and_is_not_tried_again() -> None:
    kept = Kept()
    kept.engine.submit(job("late", deadline=time.monotonic() - 1))
    kept.engine.submit(job("early", deadline=time.monotonic() + 3600))
    kept.run_all()
    failed = kept.outcome("late")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DeadlineExceeded)
    assert not failed.retryable
    assert isinstance(kept.outcome("early"), Finished)


def test_bad_input_fails_alone() -> None:
    kept = Kept()
    kept.engine.submit(replace(inpaint("no mask"), encoded={"image": png(picture(64))}))
    kept.engine.submit(replace(superres("no picture"), encoded={"image": b"not a picture"}))
    kept.engine.submit(job("mate"))
    kept.run_all()
    missing = kept.outcome("no mask")
    assert isinstance(missing, Failed)
    assert isinstance(missing.error, RequestError)
    assert not missing.retryable
    assert isinstance(kept.outcome("no picture"), Failed)
    assert isinstance(kept.outcome("mate"), Finished)
    assert kept.engine.unfinished() == []


def test_non_finite_latents_fail_alone() -> None:
    kept = Kept()
    kept.engine.submit(job("bad", seed=1, n=2))
    kept.engine.submit(job("mate"))
    kept.engine.step()
    sample = kept.engine._requests["bad"].runs[1].sample
    assert sample is not None
    sample.x = torch.full_like(sample.x, torch.nan)
    kept.run_all()
    failed = kept.outcome("bad")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NonFiniteLatents)
    assert kept.images("mate") == alone(job("mate"))


def test_an_error_of_the_whole_call_is_narrowed_down_to_its_cause() -> None:
    kept = Kept()
    jobs = [job(f"{i}", seed=i) for i in range(5)]
    for one in jobs:
        kept.engine.submit(one)
    kept.engine.step()
    kept.engine.step()
    sample = kept.engine._requests["3"].runs[0].sample
    assert sample is not None
    sample.context = sample.context[:, :, :5]  # the network cannot multiply this
    kept.run_all()
    outcomes = {one.key: kept.outcome(one.key) for one in jobs}
    assert isinstance(outcomes.pop("3"), Failed)
    assert all(isinstance(event, Finished) for event in outcomes.values())


def test_a_running_engine_takes_jobs_from_other_threads_and_drains() -> None:
    kept = Kept()
    thread = threading.Thread(target=kept.engine.run)
    thread.start()
    for i in range(6):
        kept.engine.submit(job(f"{i}", seed=i))
    assert kept.engine.stop(drain_s=60) == []
    thread.join(60)
    assert not thread.is_alive()
    assert all(isinstance(kept.outcome(f"{i}"), Finished) for i in range(6))


def test_stopping_without_patience_names_what_is_unfinished() -> None:
    kept = Kept()
    thread = threading.Thread(target=kept.engine.run)
    thread.start()
    kept.engine.submit(job("long", steps=1000))
    assert kept.engine.stop(drain_s=0) == ["long"]
    thread.join(60)
    assert not thread.is_alive()


def test_free_rows_count_what_waits_and_what_runs() -> None:
    kept = Kept(max_rows=8)
    assert kept.engine.free_rows() == 8
    kept.engine.submit(job("a", n=2))
    assert kept.engine.free_rows() == 4
    kept.engine.submit(job("b", n=3))
    assert kept.engine.free_rows() == -2
    kept.run_all()
    assert kept.engine.free_rows() == 8
    assert max(rows for _, rows, _ in kept.batches) <= 8


def test_parameters_travel_in_the_png_unless_switched_off() -> None:
    import io
    import json

    kept = Kept(encoder=Encoder(png_metadata=False))
    kept.engine.submit(job())
    kept.run_all()
    plain = Image.open(io.BytesIO(kept.images("job")[0]))
    assert "parameters" not in plain.info
    carried = json.loads(Image.open(io.BytesIO(alone(job(prompt="ein Häuschen"))[0])).info["parameters"])
    assert carried["prompt"] == "ein Häuschen"
    assert carried["seed"] == 11
    assert carried["model"] == "scenes"


@pytest.mark.parametrize(("form", "expected"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_every_format_is_what_it_says(form: str, expected: str) -> None:
    import io

    encoded = Image.open(io.BytesIO(encode(picture(16), form, None)))  # type: ignore[arg-type]
    assert encoded.format == expected
    assert encoded.size == (16, 16)


def test_a_decode_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, going_on = Kept(), threading.Event()
    monkeypatch.setattr("worker.engine.engine.FINISH_S", 0.05)
    monkeypatch.setattr("worker.engine.encode.encode", lambda *_, **__: going_on.wait(20) and b"picture")
    kept.engine.submit(job(steps=1))
    device = threading.Thread(target=kept.engine.run)
    device.start()
    time.sleep(2.5)
    quiet_s = time.monotonic() - kept.engine.last_step_at
    going_on.set()
    kept.engine.stop(10)
    device.join()
    assert quiet_s > 1  # the loop looks every second, and did not say that all was well
    assert isinstance(kept.outcome("job"), Finished)


@pytest.mark.parametrize("slow", ["unet", "decoder"])
def test_many_windows_are_no_hang_and_one_that_does_not_end_is(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine windows take a fifth of the limit each; the tenth waits."""
    kept, model, go_on = Kept(), tiny_models()["scenes-superres"], threading.Event()
    large: dict[str, Any] = {
        "model": "scenes-superres", "task": "superres", "guidance_scale": 1.0, "prompt": "", "steps": 2,
        "width": 256, "height": 256, "encoded": {"image": png(picture(64))},
    }  # fmt: skip
    owner, name = (model.unet, "forward") if slow == "unet" else (model.autoencoder, "decode")
    quick, count = getattr(owner, name), itertools.count(1)

    def call(*args: Any) -> Any:
        if next(count) < 10:
            time.sleep(0.3)
        else:
            go_on.wait(20)
        return quick(*args)

    monkeypatch.setattr(owner, name, call)
    kept.engine.submit(job("first", **large))
    kept.engine.submit(job("next", **large))
    watchdog = Watchdog(1.5, kept.engine)
    device = threading.Thread(target=kept.run_all)
    started = time.monotonic()
    device.start()
    while not watchdog.hangs():
        assert time.monotonic() < started + 20
        time.sleep(0.02)
    hung_after_s = time.monotonic() - started
    go_on.set()
    device.join()
    assert hung_after_s > 9 * 0.3 + 1.5
    assert {event.key for event in kept.events if isinstance(event, Finished)} == {"first", "next"}


def test_encoding_a_large_picture_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the encoder takes a third of the limit, all of them several times as long as it.

    The image has a size of its own: a small encoder's call of a size that came before is repeated without its blocks.
    """
    kept, block = Kept(), tiny_models()["scenes"].autoencoder.encoder.down_blocks[0].resnets[0]
    forward, blocks = type(block).forward, itertools.count(1)

    def slow(self: Any, *args: Any, **options: Any) -> Any:
        if kept.stages["begin"] == 0:
            next(blocks)
            time.sleep(0.5)
        return forward(self, *args, **options)

    monkeypatch.setattr(type(block), "forward", slow)
    mask = Image.new("L", (112, 112), 255)
    images = {"image": png(picture(112)), "mask": png(mask)}
    kept.engine.submit(job("inpaint", task="inpaint", width=112, height=112, steps=1, encoded=images))
    watchdog = Watchdog(1.5, kept.engine)
    device = threading.Thread(target=kept.run_all)
    device.start()
    hung = False
    while device.is_alive():
        hung = hung or watchdog.hangs()
        time.sleep(0.02)
    assert next(blocks) > 4
    assert not hung
    assert isinstance(kept.outcome("inpaint"), Finished)
    modules = (module for model in tiny_models().values() for module in model.autoencoder.modules())
    assert not any(module._forward_hooks for module in modules)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def requests_and_samples() -> set[int]:
    return {id(thing) for thing in gc.get_objects() if type(thing) in {Request, ImageRun, Sample}}


@pytest.mark.usefixtures("no_garbage_collection")
def test_what_has_ended_frees_its_pictures_and_latents_at_once() -> None:
    """However it ended. Waiting for the garbage collector, a worker keeps thousands of them, on the device as well."""
    kept, before = Kept(), requests_and_samples()
    for one in (job(n=2), inpaint(), superres(), job("bad", task="inpaint", encoded={"image": b"", "mask": b""})):
        kept.engine.submit(one)
    del one
    kept.engine.submit(job("cancelled"))
    kept.engine.step()
    kept.engine.cancel("cancelled")
    kept.run_all()
    kept.events.clear()
    assert kept.engine.unfinished() == []
    assert requests_and_samples() == before


def test_tokens_that_are_cut_stand_in_the_outcome() -> None:
    kept = Kept()
    prompt = "a red house by the sea " * 20
    kept.engine.submit(job(prompt=prompt, negative_prompt="a boat", steps=1))
    kept.run_all()
    event = kept.outcome("job")
    assert isinstance(event, Finished)
    (warning,) = event.warnings
    assert (warning.code, warning.pointer) == ("prompt_truncated", "/prompt")
    tokens = len(tiny_models()["scenes"].condition.tokenizer([prompt])["input_ids"][0]) - 2
    assert f"It has {tokens} tokens" in warning.detail
    assert "house" in warning.detail or "sea" in warning.detail  # where the cut begins


def test_a_preview_comes_with_the_first_step_and_slow_ones_come_seldom() -> None:
    def previews(kept: Kept) -> int:
        kept.engine.step()
        kept.finish()
        return len([event for event in kept.events if isinstance(event, Preview)])

    kept = Kept()
    of = job(steps=9)
    of.preview_requested = True  # as where a client looked before the job began
    kept.engine.submit(of)
    assert previews(kept) == 1
    of.next_preview_at = 0.0
    assert previews(kept) == 2
    assert of.next_preview_at < time.monotonic() + PREVIEW_S
    kept.engine._show("job", b"", seconds=60.0)
    assert of.next_preview_at > time.monotonic() + 60.0 / PREVIEW_SHARE - 60.0
    assert previews(kept) == 3  # the one that was just shown, and no other
