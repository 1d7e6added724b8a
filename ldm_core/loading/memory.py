"""Whether a device has room for weights, asked before any of them is moved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ldm_core.errors import ModelError
from ldm_core.model_directory.weight_files import find_weights, read_header
from ldm_core.weights.placing import Place

SYSTEM = Path("/")
LIMITS = (  # of control groups, version 2 and version 1: where they lie, limit, use
    ("sys/fs/cgroup", "memory.max", "memory.current"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
CACHED = ("inactive_file", "active_file")  # of a group's use: pages of files, which make room


def refuse_without_room(root: Path, paths: Iterable[Path], place: Place) -> None:
    """Holds the weights of these components against the memory that is free. Raises ModelError with both numbers.

    What is needed is a lower bound: layouts and activations come on top.
    """
    needed = sum(_needed(path, place.dtype) for path in paths)
    free = free_memory(place.device)
    if free is not None and needed > free:
        dtype = str(place.dtype).removeprefix("torch.")
        gigabytes = f"{needed / 1e9:.2f} GB in {dtype}, and {place.device} has {free / 1e9:.2f} GB free"
        raise ModelError(root, f"is too large for this device: its weights need {gigabytes}")


def free_memory(device: torch.device, system: Path = SYSTEM) -> int | None:
    """Bytes that a process can still take of the device's memory; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_free_main_memory(system), default=None) if device.type == "cpu" else None


def _free_main_memory(system: Path) -> Iterator[int]:
    """What each of the bounds leaves: the machine's memory and swap, and the control groups around this process."""
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in (system / "proc/meminfo").read_text().splitlines())
        yield sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    for folder, limit, use in LIMITS:
        for group in _groups(system / folder, system):
            with suppress(OSError, ValueError):  # "max": no limit
                yield int((group / limit).read_text()) - int((group / use).read_text()) + _cached(group)


def _groups(top: Path, system: Path) -> list[Path]:
    """The groups that this process is in, below `top`. In a container `top` itself is the innermost one."""
    paths = {line.split(":", 2)[-1] for line in _lines(system / "proc/self/cgroup")}
    inside = {top / path.strip("/") for path in paths}
    return [top, *{group for leaf in inside for group in (leaf, *leaf.parents) if top in group.parents}]


def _cached(group: Path) -> int:
    """Bytes of files; version 1 counts those of the groups below apart, as total_*."""
    stat = dict(line.split() for line in _lines(group / "memory.stat"))
    return sum(int(stat.get(f"total_{name}", stat.get(name, 0))) for name in CACHED)


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().splitlines()
    return []


def _needed(path: Path, dtype: torch.dtype) -> int:
    """Bytes of a component's weights in that dtype. Of a pickle only its size is known: float32, most likely."""
    if path.name == "condition" and not any(path.glob("*.safetensors")):
        return 0
    total = 0
    for file in find_weights(path):
        if file.suffix == ".safetensors":
            total += sum(math.prod(info.shape) for info in read_header(file).values()) * dtype.itemsize
        else:
            total += file.stat().st_size * dtype.itemsize // torch.float32.itemsize
    return total
