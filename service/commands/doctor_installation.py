"""Checks of what is installed: Python, packages, torch and its CUDA, kernels. Imports nothing but Python's own."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service.commands.findings import Finding, error, ok, warning

OLDEST = (3, 11)
NEEDED = (  # modules of the base install
    "fastapi", "h11", "hiredis", "httpcore", "httpx", "ldm_client", "mcp", "PIL", "prometheus_client", "pydantic",
    "pydantic_settings", "python_multipart", "redis", "rich", "rq", "standardwebhooks", "typing_extensions", "uvicorn",
)  # fmt: skip
OF_A_WORKER = ("numpy", "safetensors", "tokenizers", "transformers", "yaml", "zlib_ng")
INSTALL = "in the clone: make install, or pip install ."
INSTALL_WORKER = "in the clone: make install, or pip install '.[worker]'"
NVIDIA = "0x10de"
TORCH_S = 120.0  # that importing it may take, from a cold disk
PROGRAM = """
import json, ldm_core, torch
found = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "found": found,
    "cards": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if found else [],
}))
"""
ROOT = Path(__file__).resolve().parents[2]


def check_installation() -> Iterator[Finding]:
    """Python and the packages of the base install."""
    told = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST:
        yield error("python", told, "install Python 3.11 or newer")
    else:
        yield ok("python", told)
    missing = [name for name in NEEDED if not _there(name)]
    if missing:
        yield error("packages", f"not installed: {', '.join(missing)}", INSTALL)
        return
    old = list(_out_of_range())
    if old:
        yield warning("packages", f"other versions than asked for: {', '.join(old)}", INSTALL)
    else:
        yield ok("packages", f"ldm-service {_version('ldm-service')} and all that it needs")


def _out_of_range() -> Iterator[str]:
    """Installed packages whose versions the project does not declare."""
    try:
        from packaging.requirements import Requirement

        needed = [Requirement(text) for text in requires("ldm-service") or ()]
    except (ImportError, PackageNotFoundError):
        return
    for each in needed:
        installed = _version(each.name) if each.marker is None else "unknown"
        if installed != "unknown" and not each.specifier.contains(installed, prereleases=True):
            yield f"{each.name} {installed} (needs {each.specifier})"


def check_torch() -> Iterator[Finding]:
    """Whether there is a torch, and whether it and the machine agree on CUDA."""
    if not _there("torch"):
        yield warning("torch", "not installed: this can be a gateway, and no worker", INSTALL_WORKER)
        return
    missing = [name for name in OF_A_WORKER if not _there(name)]
    if missing:
        yield error("torch", f"a worker lacks {', '.join(missing)}", INSTALL_WORKER)
    try:
        torch = _asked_torch()
    except (OSError, ValueError, subprocess.SubprocessError) as broken:
        last = (str(getattr(broken, "stderr", "") or broken).strip().splitlines() or ["it died"])[-1]
        yield error("torch", f"{_version('torch')} cannot be imported: {last}", f"install it again; {INSTALL_WORKER}")
        return
    yield _of_cuda(torch, os.environ.get("LDM_DEVICE") or "auto")


def _asked_torch() -> dict[str, Any]:
    """In a process of its own: a broken torch may end one without a word."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", PROGRAM], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=TORCH_S, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _of_cuda(torch: dict[str, Any], device: str) -> Finding:
    """`torch` is what it says of itself."""
    name, driver, card = f"torch {torch['version']}", _driver(), _has_card()
    worse = error if device.startswith("cuda") else warning
    if torch["found"]:
        return ok("torch", f"{name} with CUDA {torch['cuda']} on {', '.join(torch['cards'])}, driver {driver}")
    if torch["cuda"] is None:
        if card or device.startswith("cuda"):
            asked = "LDM_DEVICE asks for CUDA" if not card else "there is an NVIDIA card"
            todo = "install torch's CUDA build: pip install --force-reinstall torch"
            return worse("torch", f"{name} is built without CUDA, and {asked}", todo)
        return ok("torch", f"{name}, built for the CPU alone; there is no NVIDIA card")
    said = f"{name} is built for CUDA {torch['cuda']}"
    if card and driver:
        todo = f"the driver ({driver}) may be too old for it, or the device not be let in (containers: --gpus all)"
        return worse("torch", f"{said} and finds no card, though there is one", todo)
    if card:
        return worse("torch", f"{said}, and the NVIDIA card has no driver", "install NVIDIA's driver")
    if device.startswith("cuda"):
        return error("torch", f"{said}, LDM_DEVICE={device}, and there is no NVIDIA card", "set LDM_DEVICE=cpu")
    small = 'a smaller one: make install PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"'
    return warning("torch", f"{said}, and there is no NVIDIA driver: it computes on the CPU", f"none needed; {small}")


def _driver() -> str:
    """The NVIDIA driver's version; empty: there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "of unknown version" if shutil.which("nvidia-smi") and Path("/dev/nvidiactl").exists() else ""
    found = re.search(r"\s(\d+\.\d+[.\d]*)\s", text)
    return found[1] if found else "of unknown version"


def _has_card() -> bool:
    """Whether a display or compute device of NVIDIA is on the bus, or let in."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            if (device / "vendor").read_text().strip() == NVIDIA and (device / "class").read_text().startswith("0x03"):
                return True
        except OSError:
            continue
    return False


def check_kernels() -> Iterator[Finding]:
    """Whether the C kernels were compiled at installation; without them torch computes instead."""
    if not _there("torch"):
        return
    found = find_spec("ldm_core.acceleration._kernels")
    if found is None or not found.origin:
        todo = f"install a C compiler (Debian, Ubuntu: apt install gcc libc6-dev), then {INSTALL_WORKER}"
        yield warning("kernels", "not compiled: steps on a CPU take a third longer", todo)
    else:
        yield ok("kernels", f"compiled ({Path(found.origin).name})")


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
