"""Every family, task and sampler on a GPU that is only pretended: what would break or stall on CUDA."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_core import tasks
from ldm_core.checkpoints import import_checkpoint
from ldm_core.denoise import Denoiser
from ldm_core.errors import ModelError
from ldm_core.generate import generate
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import read_card
from ldm_core.networks.unet import UNet
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
# Of three steps, DEIS multiplies latents by 15, and their rounding; it ends above the image, which would undo that.
AMPLIFIES = {"deis": 6}
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
    for sampler in SAMPLERS:
        assert differs(directories[CASES[case][0]], load, case, sampler) <= AMPLIFIES.get(sampler, 3), sampler


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
    with pytest.raises(ModelError, match="invalid device ordinal"):
        load("scenes", "cuda:2")


@pytest.mark.parametrize("sampler", SAMPLERS)
@torch.inference_mode()
def test_a_step_of_the_same_samples_is_one_launch_and_no_wait(load: Load, gpu: PretendedCuda, sampler: str) -> None:
    model = load("scenes")
    jobs = [replace(TXT2IMG, steps=5, sampler=sampler, seed=i, guidance_scale=2.0 + i) for i in range(3)]
    samples = [tasks.begin(model, params, 0, {}) for params in jobs]
    denoiser = Denoiser(model, 2, model.capture)
    denoiser.step(samples)
    with gpu.counting() as seen:
        denoiser.step(samples)
        denoiser.step(samples)
    assert seen.launches == ["CUDAGraph.replay"] * 2
    assert not seen.waits
    noise = [] if not samples[0].draws else ["to device"]
    assert [crossing.kind for crossing in seen.crossings] == [*noise, "to host", "paced"] * 2


@torch.inference_mode()
def test_holding_what_is_known_is_part_of_the_launch(load: Load, gpu: PretendedCuda) -> None:
    model = load("v-sd1")
    side = model.card.native_size[0]
    params = replace(TXT2IMG, task="inpaint", width=side, height=side, steps=4)
    images = {"image": Image.new("RGB", (side, side)), "mask": Image.new("L", (side, side), 255)}
    samples = [tasks.begin(model, params, 0, images) for _ in range(2)]
    denoiser = Denoiser(model, 2, model.capture)
    denoiser.step(samples)
    with gpu.counting() as seen:
        denoiser.step(samples)
    assert seen.launches == ["CUDAGraph.replay"]
    assert not seen.waits


JOBS = [
    *(replace(TXT2IMG, steps=3 + i, sampler=sampler, seed=i) for i, sampler in enumerate(SAMPLERS)),
    replace(TXT2IMG, steps=6, seed=9, guidance_scale=1.0),
    replace(TXT2IMG, eta=1.0, seed=10),
]


def coming_and_going(model: LatentDiffusion) -> list[Tensor]:
    """The last latents of jobs that join, rest and leave one another."""
    samples = [tasks.begin(model, params, 0, {}) for params in JOBS]
    denoiser = Denoiser(model, 2, model.capture)
    for i in range(100):
        running = [sample for j, sample in enumerate(samples[: i + 1]) if not sample.done and (i + j) % 4]
        if running:
            assert all(denoiser.step(running))
    assert all(sample.done for sample in samples)
    return [sample.x for sample in samples]


@torch.inference_mode()
def test_samples_that_come_and_go_have_the_bytes_of_lone_ones_in_plain_steps(load: Load) -> None:
    model = load("scenes")
    for job, found in zip(JOBS, coming_and_going(model), strict=True):
        alone, denoiser = tasks.begin(model, job, 0, {}), Denoiser(model, 2)
        while not alone.done:
            denoiser.step([alone])
        assert torch.equal(found, alone.x), job


@torch.inference_mode()
def test_calls_that_do_not_fit_are_made_with_fewer_rows(load: Load, gpu: PretendedCuda) -> None:
    """Down to one row, where a guided sample takes two calls; to the same bytes."""
    model = load("scenes")

    def stepped(most: int) -> tuple[list[Tensor], set[int]]:
        samples = [tasks.begin(model, replace(TXT2IMG, seed=i), 0, {}) for i in range(3)]
        denoiser, called = Denoiser(model, 2, model.capture), set()

        def no_room(module: UNet, parts: tuple[Tensor, ...]) -> None:
            if len(parts[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            called.add(len(parts[0]))

        hook = model.unet.register_forward_pre_hook(no_room)
        while not samples[0].done:
            denoiser.step(samples)
        hook.remove()
        return [sample.x for sample in samples], called

    (expected, roomy), (in_twos, tight), (in_ones, tightest) = stepped(8), stepped(2), stepped(1)
    assert (roomy, tight, tightest) == ({2, 8}, {2}, {1})  # the trial of a size begins with two rows
    for found in (in_twos, in_ones):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


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
def test_steps_are_captured_on_one_thread_and_repeated_on_another(load: Load, gpu: PretendedCuda) -> None:
    model, on_cpu = load("scenes"), load("scenes", "cpu")
    jobs = [replace(TXT2IMG, seed=seed, guidance_scale=scale) for seed, scale in ((5, 4.0), (6, 1.0), (7, 2.0))]
    found: list[Image.Image] = []
    denoiser = Denoiser(model, ROWS, model.capture)
    denoiser.step([tasks.begin(model, params, 0, {}) for params in jobs])
    captured = len(gpu.graphs)

    def device_thread() -> None:
        with torch.inference_mode():
            samples = [tasks.begin(model, params, 0, {}) for params in jobs]
            while not samples[0].done:
                denoiser.step(samples)
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
