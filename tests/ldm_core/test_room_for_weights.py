"""A model that the device has no room for is refused before any of it is moved, with both numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldm_core.errors import ModelError
from ldm_core.loading.memory import free_memory, refuse_without_room
from ldm_core.loading.model import load_model
from ldm_core.weights.placing import MAIN_MEMORY, Place

BUILTIN = Path(__file__).parents[2] / "ldm_core/builtin/scenes"
CPU = torch.device("cpu")
UNLIMITED = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nSwapFree: 500 kB\n"}
GROUP, OLD_GROUP = "sys/fs/cgroup", "sys/fs/cgroup/memory"
BOUNDS: dict[str, tuple[dict[str, str], int | None]] = {
    "a system that does not say": ({}, None),
    "memory and swap": (UNLIMITED, 4_608_000),
    "a container": ({**UNLIMITED, f"{GROUP}/memory.max": "900000\n", f"{GROUP}/memory.current": "300000\n"}, 600_000),
    "a container without a limit": (
        {**UNLIMITED, f"{GROUP}/memory.max": "max\n", f"{GROUP}/memory.current": "300000\n"}, 4_608_000,
    ),
    "cached files make room": (
        {f"{GROUP}/memory.max": "900000", f"{GROUP}/memory.current": "800000",
         f"{GROUP}/memory.stat": "anon 500000\ninactive_file 200000\nactive_file 100000\n"}, 400_000,
    ),
    "a group around ours": (
        {"proc/self/cgroup": "0::/slice/ours\n",
         f"{GROUP}/slice/memory.max": "700000", f"{GROUP}/slice/memory.current": "200000",
         f"{GROUP}/slice/ours/memory.max": "900000", f"{GROUP}/slice/ours/memory.current": "1000"}, 500_000,
    ),
    "control groups of version 1": (
        {"proc/self/cgroup": "4:memory:/ours\n1:cpu:/\n", f"{OLD_GROUP}/ours/memory.limit_in_bytes": "600000",
         f"{OLD_GROUP}/ours/memory.usage_in_bytes": "500000",
         f"{OLD_GROUP}/ours/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\ntotal_active_file 500\n"},
        101_500,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_the_tightest_bound_counts(tmp_path: Path, name: str) -> None:
    files, expected = BOUNDS[name]
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert free_memory(CPU, tmp_path) == expected


def test_this_machine_says_what_is_free() -> None:
    free = free_memory(CPU)
    assert free is not None
    assert free > 2**20


def test_a_model_larger_than_the_machine_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """The weights of its text encoder are a sparse file, which takes neither disk nor memory."""
    directory = Path(shutil.copytree(BUILTIN, tmp_path / "huge"))
    free = free_memory(CPU)
    assert free is not None
    file = directory / "text_encoder/model.safetensors"
    count = free // 4
    header = json.dumps({"weight": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 4 * count)
    with pytest.raises(
        ModelError, match=r"huge: is too large .* need [\d.]+ GB in float32, and cpu has [\d.]+ GB free"
    ):
        load_model(directory)


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_weights_are_counted_in_the_dtype_that_they_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bytes_each: int
) -> None:
    files = [BUILTIN / name / "diffusion_pytorch_model.safetensors" for name in ("unet", "vae")]
    needed = sum(value.numel() for file in files for value in load_file(file).values()) * bytes_each
    paths, place = [file.parent for file in files], Place(CPU, dtype)
    monkeypatch.setattr("ldm_core.loading.memory.free_memory", lambda device: needed)
    refuse_without_room(tmp_path, paths, place)
    monkeypatch.setattr("ldm_core.loading.memory.free_memory", lambda device: needed - 1)
    with pytest.raises(ModelError, match="is too large for this device"):
        refuse_without_room(tmp_path, paths, place)


def test_what_is_shared_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: dict[str, torch.nn.Module] = {}
    load_model(BUILTIN, shared=shared)
    monkeypatch.setattr("ldm_core.loading.memory.free_memory", lambda device: 0)
    assert load_model(BUILTIN, shared=shared).digest
    with pytest.raises(ModelError, match=r"cpu has 0\.00 GB free"):
        load_model(BUILTIN, shared={})


def test_a_pickle_is_counted_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "unet"
    folder.mkdir()
    torch.save({"weight": torch.zeros(1000)}, folder / "diffusion_pytorch_model.bin")
    monkeypatch.setattr("ldm_core.loading.memory.free_memory", lambda device: 3999)
    with pytest.raises(ModelError, match="is too large for this device"):
        refuse_without_room(tmp_path, [folder], MAIN_MEMORY)
