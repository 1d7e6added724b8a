"""CUDA's arithmetic, settled once: which libraries compute, in which precision, and in one order of sums.

Left alone, torch times cuDNN's algorithms, lets sums in half precision be split, rounds float32 convolutions to TF32
and takes the attention kernel that environment variables prefer: two workers, or one before and after a restart, would
then give different bytes. On a CPU nothing here has an effect (ldm_core/environment.py settles that).
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

# The first of these that takes a call's shapes and dtype computes it: torch's own order, without cuDNN's attention,
# which torch prefers on some GPUs, by an environment variable on others.
ATTENTION = "flash, efficient, math"
NAME = f"arithmetic 1 (deterministic cuDNN, cuBLASLt, IEEE float32, no split sums, attention {ATTENTION})"
DRIVER = Path("/proc/driver/nvidia/version")


def settle_arithmetic() -> None:
    """Fixes all of the above for this process. Call this before the first use of a CUDA device; again does no harm."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    # no reduction in half precision, and none that is split over thread blocks
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    if torch.backends.cuda.is_built():
        torch.backends.cuda.preferred_blas_library("cublaslt")


def fingerprint(device: torch.device) -> str:
    """On what a CUDA device's last bits depend, beside torch's version."""
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {_driver()}"
    return f"{torch.cuda.get_device_name(device)}, {libraries}, {NAME}"


def _driver() -> str | None:
    """The NVIDIA driver's version, None where the system does not tell."""
    try:
        found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None
