"""Every family, task and sampler on a GPU that is only pretended: what would break or stall on CUDA."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_core import denoise, tasks
from ldm_core.checkpoints import import_checkpoint
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import read_card
from ldm_core.params import SAMPLERS, GenerationParams, LayoutObject
from tests.compvis_layout import Written
from tests.end_to_end.test_families import ALSO, DATA, FAMILIES, OTHERS, opened
from tests.pretended_cuda import DeviceMix, PretendedCuda, pretended_cuda
from tests.pretended_runtime import NotInCapture, Race
from tests.tiny import write_tiny_models

CASES = {f"{name}-{asked[0]}": (name, asked) for name, asked in [*FAMILIES.items(), *ALSO.items()]}
TXT2IMG = GenerationParams(
    task="txt2img", width=64, height=64, steps=3, guidance_scale=4.0, seed=5, prompt="a red house by the sea"
)
ROWS = 4
Load = Callable[..., LatentDiffusion]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every family of the paper, tiny."""
    folder = tmp_path_factory.mktemp("families")
    written = {name: write(tmp_path_factory.mktemp(name)) for name, write in OTHERS.items()}
    for name in FAMILIES.keys() - OTHERS.keys():
        written[name] = Written(DATA / name / "model.ckpt", DATA / name / "model.yaml")
    paths = {
        name: import_checkpoint(
            it.ckpt, it.config, folder / name, clip=it.clip, tokenizer=next(iter(it.config.parent.glob("bert-*")), None)
        )
        for name, it in written.items()
    }
    return paths | {path.name: path for path in write_tiny_models(folder / "tiny")}


@pytest.fixture(scope="module")
def gpu() -> Iterator[PretendedCuda]:
    with pretended_cuda(devices=2) as gpu:
        yield gpu


@pytest.fixture(scope="module")
def load(directories: dict[str, Path], gpu: PretendedCuda) -> Load:
    """Loads a family's model once for each device and dtype."""

    @cache
    def loaded(name: str, device: str = "cuda", dtype: torch.dtype = torch.float32) -> LatentDiffusion:
        return load_model(directories[name], device, dtype)

    return loaded


def asked_of(directory: Path, case: str, sampler: str) -> tuple[GenerationParams, dict[str, Any]]:
    """A request of a family as tests/end_to_end/test_families.py makes it, and its images."""
    _, (task, fields, images) = CASES[case]
    card = read_card(directory)
    inputs = {"image" if key == "map" else key: opened(data) for key, data in images.items()}
    own = {key: value for key, value in fields.items() if key not in {"objects", "guidance_scale", "sampler", "eta"}}
    if "objects" in fields:
        own["objects"] = tuple(LayoutObject(thing["label"], *thing["box"]) for thing in fields["objects"])
    image = inputs.get("image")
    width, height = card.native_size if image is None else (side * card.scale for side in image.size)
    guidance = fields.get("guidance_scale", card.default_guidance_scale)
    return GenerationParams(
        task=task, width=width, height=height, steps=3, seed=3, guidance_scale=guidance, sampler=sampler,
        eta=fields.get("eta", 0.0) if sampler == "ddim" else 0.0, **own,
    ), inputs  # fmt: skip


def begun(model: LatentDiffusion, params: GenerationParams, inputs: dict[str, Any]) -> Any:
    neighbors = inputs.pop("neighbors", ())
    return tasks.begin(model, params, 0, inputs | {f"neighbor{i}": each for i, each in enumerate(neighbors)})


def levels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image).astype(int)


def differs(directory: Path, load: Load, case: str, sampler: str) -> int:
    """The largest difference between the images of both devices, of 255."""
    params, inputs = asked_of(directory, case, sampler)
    models = load(directory.name), load(directory.name, "cpu")
    (found,), (expected,) = (generate(model, params, **inputs, rows=ROWS) for model in models)
    return int(np.abs(levels(found) - levels(expected)).max())


@pytest.mark.parametrize("case", CASES)
def test_no_two_devices_meet_and_images_are_those_of_a_cpu(directories: dict[str, Path], load: Load, case: str) -> None:
    name, (_, fields, _) = CASES[case]
    assert {weight.device.type for weight in load(name).unet.parameters()} == {"cuda"}
    assert differs(directories[name], load, case, fields.get("sampler", "ddim")) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_family_runs_with_every_sampler(directories: dict[str, Path], load: Load, case: str) -> None:
    assert max(differs(directories[CASES[case][0]], load, case, sampler) for sampler in SAMPLERS) <= 3


def test_every_sampler_steps_on_a_gpu(load: Load, gpu: PretendedCuda) -> None:
    model, on_cpu = load("scenes"), load("scenes", "cpu")
    for params in [replace(TXT2IMG, sampler=sampler) for sampler in SAMPLERS]:
        (found,), (expected,) = generate(model, params, rows=ROWS), generate(on_cpu, params, rows=ROWS)
        assert np.abs(levels(found) - levels(expected)).max() <= 3, params.sampler


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16])
@pytest.mark.parametrize(
    "case", ["v-sd1-inpaint", "v-superres-superres", "v-layout-layout2img", "v-semantic-semantic2img"]
)
def test_half_precision_runs_through(directories: dict[str, Path], load: Load, case: str, dtype: torch.dtype) -> None:
    name = CASES[case][0]
    params, inputs = asked_of(directories[name], case, "ddim")
    assert generate(load(name, "cuda", dtype), params, **inputs, rows=ROWS)


def test_another_gpu_than_the_first(load: Load, gpu: PretendedCuda) -> None:
    """What forgets the index would meet tensors of cuda:0."""
    model = load("scenes", "cuda:1")
    mask = Image.new("L", (64, 64), 255)
    assert generate(model, TXT2IMG, rows=ROWS)
    assert generate(model, replace(TXT2IMG, task="inpaint"), Image.new("RGB", (64, 64)), mask, rows=ROWS)
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        load("scenes", "cuda:2")


# What one step of N samples may make the host wait for. Numbers may only fall: a step needs none.
EACH_STEP = {
    "ddim": {"to device": (1, 0), "to host": (1, 0)},  # of the step, and of each sample
    "dpmpp_2m": {"to device": (1, 0), "to host": (1, 0)},
    "euler_a": {"to device": (1, 1), "to host": (1, 0)},  # noise, sample by sample
}


@pytest.mark.parametrize("sampler", EACH_STEP)
@torch.inference_mode()
def test_a_step_hardly_waits_for_the_device(load: Load, gpu: PretendedCuda, sampler: str) -> None:
    model = load("scenes")
    samples = [tasks.begin(model, replace(TXT2IMG, steps=4, sampler=sampler, seed=i), 0, {}) for i in range(3)]
    for _ in range(2):  # what all steps share comes to the device in the first, calls are captured in the second
        denoise.step(model, samples, ROWS)
    with gpu.counting() as seen:
        denoise.step(model, samples, ROWS)
    found = Counter(crossing.kind for crossing in seen.waits)
    allowed = {kind: own + each * len(samples) for kind, (own, each) in EACH_STEP[sampler].items()}
    told = [f"{crossing.kind} by {crossing.what} at {crossing.where}" for crossing in seen.crossings]
    assert all(found[kind] <= allowed.get(kind, 0) for kind in found), told
    assert seen.launches.count("CUDAGraph.replay") == 2  # six rows in calls of four


@torch.inference_mode()
def test_holding_what_is_known_waits_three_times_a_sample(load: Load, gpu: PretendedCuda) -> None:
    model = load("v-sd1")
    side = model.card.native_size[0]
    params = replace(TXT2IMG, task="inpaint", width=side, height=side, steps=4)
    images = {"image": Image.new("RGB", (side, side)), "mask": Image.new("L", (side, side), 255)}
    samples = [tasks.begin(model, params, 0, images) for _ in range(2)]
    denoise.step(model, samples, ROWS)
    with gpu.counting() as seen:
        denoise.step(model, samples, ROWS)
    assert sum(crossing.kind == "to device" for crossing in seen.waits) <= 1 + 3 * len(samples)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_every_network_can_be_captured(directories: dict[str, Path], load: Load, gpu: PretendedCuda, case: str) -> None:
    """A call of a U-Net, decoder or encoder copies nothing from the host and waits for nothing."""
    name = CASES[case][0]
    model = load(name)
    params, inputs = asked_of(directories[name], case, "ddim")
    sample = begun(model, params, inputs)
    t = sample.plan.table[:1, 0].to("cuda")
    parts = sample.x, t, None if sample.context is None else sample.context[:1], sample.concat, sample.class_labels
    given = [None if part is None else torch.cat([part] * ROWS) for part in parts]
    with gpu.capture():
        model.predict(*given)
        image = model.autoencoder.decode(sample.x)
        if params.task == "inpaint":
            model.moments(image)
    assert not gpu.runtime.graphs[-1].copies


@torch.inference_mode()
def test_a_captured_call_repeats_itself_on_another_thread(load: Load, gpu: PretendedCuda) -> None:
    """What comes in is copied to the graph's buffers; what goes out is not written over by the next call."""
    model, on_cpu = load("scenes"), load("scenes", "cpu")
    jobs = [replace(TXT2IMG, seed=seed, guidance_scale=scale) for seed, scale in ((5, 4.0), (6, 1.0), (7, 2.0))]
    found: list[Image.Image] = []
    generate(model, TXT2IMG, rows=ROWS)
    captured = len(gpu.graphs)

    def device_thread() -> None:
        with torch.inference_mode():
            samples = [tasks.begin(model, params, 0, {}) for params in jobs]
            while not samples[0].done:
                denoise.step(model, samples, ROWS)
            found.extend(tasks.finish(model, sample) for sample in samples)

    thread = threading.Thread(target=device_thread)
    thread.start()
    thread.join()
    assert captured and all(graph.nodes for graph in gpu.graphs)
    expected = [generate(on_cpu, params, rows=ROWS)[0] for params in jobs]
    differences = [np.abs(levels(a) - levels(b)).max() for a, b in zip(found, expected, strict=True)]
    assert len(differences) == 3 and max(differences) <= 3


# -- the pretended device itself


def test_it_refuses_what_cuda_refuses(gpu: PretendedCuda) -> None:
    on_gpu, on_cpu = torch.ones(2, device="cuda"), torch.ones(2)
    with pytest.raises(DeviceMix, match=r"found \['cpu', 'cuda:0'\] in add"):
        torch.add(on_gpu, on_cpu)
    with pytest.raises(TypeError, match="numpy"):
        on_gpu.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device="cuda", generator=torch.Generator())
    with pytest.raises(NotInCapture, match="to host by item"), gpu.capture():
        on_gpu.sum().item()
    with pytest.raises(NotInCapture, match="to device by copy_"), gpu.capture():
        on_gpu.copy_(on_cpu, non_blocking=True)


def test_a_lost_device_refuses_everything() -> None:
    with pretended_cuda() as gpu:
        on_gpu = torch.ones(2, device="cuda")
        gpu.lose("ECC error")
        for use in (lambda: on_gpu + 1, lambda: on_gpu.cpu(), on_gpu.tolist, torch.cuda.synchronize):
            with pytest.raises(RuntimeError, match="ECC error"):
                use()
        assert (torch.ones(2) + 1).tolist() == [2, 2]


def test_it_counts_launches_copies_and_waits(gpu: PretendedCuda) -> None:
    x, w, host = torch.ones(2, 4, device="cuda"), torch.ones(4, 4, device="cuda"), torch.ones(3)
    with gpu.counting() as seen:
        torch.nn.functional.linear(x, w)[0].view(2, 2).t()
        torch.empty(9, device="cuda").zero_()
        host + host
    assert seen.launches == ["aten.mm.default", "aten.zero_.default"] and not seen.crossings
    with gpu.counting() as seen:
        x.cpu()
        x.to(torch.float16)
        torch.cuda.Event().synchronize()
        torch.cuda.synchronize()
    assert [crossing.kind for crossing in seen.crossings] == ["to host", "paced", "wait"]
    assert [crossing.kind for crossing in seen.waits] == ["to host", "wait"]
    assert seen.launches == ["aten._to_copy.default"]


def test_a_loop_over_pinned_buffers_is_one_launch_and_no_wait(gpu: PretendedCuda) -> None:
    given, taken = torch.zeros(4, pin_memory=True), torch.zeros(4).pin_memory()
    assert given.is_pinned() and taken[1:].is_pinned() and not torch.zeros(4).is_pinned()
    x = torch.zeros(4, device="cuda")
    graph, event = torch.cuda.CUDAGraph(), torch.cuda.Event()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(priority=-1)):
        x.copy_(given, non_blocking=True)
        x.mul_(2)
        taken.copy_(x + 1, non_blocking=True)
    assert graph.nodes == ["aten.copy_.default", "aten.mul_.Tensor", "aten.add.Tensor", "aten.copy_.default"]
    found = []
    with gpu.counting() as seen:
        for step in range(3):
            given.fill_(step)
            graph.replay()
            event.record()
            event.synchronize()
            found.append(taken.tolist()[0])
    assert found == [1, 3, 5]
    assert seen.launches == ["CUDAGraph.replay"] * 3 and not seen.waits


def test_a_pinned_buffer_that_is_used_too_early_raises(gpu: PretendedCuda) -> None:
    pinned, x = torch.zeros(4, pin_memory=True), torch.zeros(4, device="cuda")
    x.copy_(pinned, non_blocking=True)
    assert pinned.tolist() == [0.0] * 4
    with pytest.raises(Race, match="read"):
        pinned.fill_(1)
    torch.cuda.synchronize()
    pinned.copy_(x, non_blocking=True)
    with pytest.raises(Race, match="tolist"):
        pinned.tolist()
    aside, event = torch.cuda.Stream(), torch.cuda.Event()
    event.record(aside)  # of a stream that does not wait for the copy's
    event.synchronize()
    with pytest.raises(Race, match="written"):
        pinned.numpy()
    aside.wait_stream(torch.cuda.current_stream())
    event.record(aside)
    event.synchronize()
    assert pinned.tolist() == [0.0] * 4
