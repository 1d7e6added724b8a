"""The device and the dtype that a worker's settings name. What cannot be had is refused in a sentence."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import torch

from ldm_core.arithmetic import settle_arithmetic
from worker.vital import EXIT_BAD_SETTING

log = logging.getLogger(__name__)

BFLOAT16_SINCE = (8, 0)  # compute capability: Ampere


def chosen_device(name: str) -> torch.device:
    """The device of LDM_DEVICE. Ends the process where it is not there; `auto` alone takes a CPU in place of a GPU."""
    if name == "auto":
        return _best()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in {"cpu", "cuda"} or (device.type == "cpu" and device.index):
        _refuse(f"LDM_DEVICE={name}: is no device; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        _check_gpu(name, device)
    return device


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of LDM_DTYPE. Ends the process where the device cannot compute in it, or takes many times as long."""
    if name == "auto":
        return _usual_dtype(device)
    if name == "float16" and device.type == "cpu":
        _refuse(
            "LDM_DTYPE=float16: is for GPUs, a CPU takes many times as long in it; choose float32, bfloat16 or auto"
        )
    if name == "bfloat16" and not _computes_in_bfloat16(device):
        _refuse(
            f"LDM_DTYPE=bfloat16: {torch.cuda.get_device_name(device)} has compute capability {_capability(device)}, "
            "and bfloat16 needs 8.0; choose float16, float32 or auto"
        )
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _best() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.version.cuda is not None:
        log.warning("no GPU can be used here: working on the CPU; LDM_DEVICE=cuda ends the process instead")
    return torch.device("cpu")


def _check_gpu(name: str, device: torch.device) -> None:
    """Ends the process where this GPU cannot be used."""
    if not torch.cuda.is_available():
        built = torch.backends.cuda.is_built()
        why = (
            "no NVIDIA driver or no GPU is visible here"
            if built
            else f"torch {torch.__version__} is built without CUDA"
        )
        _refuse(f"LDM_DEVICE={name}: {why}; choose cpu or auto")
    if (device.index or 0) >= (count := torch.cuda.device_count()):
        most = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        _refuse(f"LDM_DEVICE={name}: there {'is' if count == 1 else 'are'} {count} here, {most}")
    settle_arithmetic()
    try:
        torch.ones(1, device=device).add_(1).item()
    except RuntimeError as error:  # of another process in exclusive mode, of an architecture without kernels, broken
        _refuse(f"LDM_DEVICE={name}: {(str(error).splitlines() or ['cannot be used'])[0]}")


def _usual_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    if _computes_in_bfloat16(device):
        return torch.bfloat16
    log.info("compute capability %s has no bfloat16: computing in float16", _capability(device))
    return torch.float16


def _computes_in_bfloat16(device: torch.device) -> bool:
    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE


def _capability(device: torch.device) -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability(device))


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(EXIT_BAD_SETTING)
