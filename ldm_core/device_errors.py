"""What an exception from a device means: too little memory, a device that is lost, or anything else.

A CUDA error such as an illegal memory access is sticky: every later call of the process fails too, in the words of
whoever notices first (CUDA's runtime, cuDNN, Triton, the driver). A probe tells, where words do not.
"""

from __future__ import annotations

import torch

from ldm_core.errors import DeviceLost, LdmError

# cuDNN's words, behind FIND or GET, when no plan of a convolution finds memory for its workspace
NO_ENGINE = "unable to find an engine"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device had too little memory; a smaller call may fit."""
    return isinstance(error, torch.OutOfMemoryError) or NO_ENGINE in str(error)


def raise_if_lost(device: torch.device, error: Exception) -> None:
    """Raises DeviceLost from `error` where a CUDA device refuses all further work.

    Costs a wait for the device, and nothing where the error is one of ours or says that memory is short.
    """
    if isinstance(error, DeviceLost):
        raise error
    if device.type != "cuda" or isinstance(error, LdmError) or is_out_of_memory(error):
        return
    try:
        torch.cuda.synchronize(device)
        (torch.ones(1, device=device) + 1).item()
    except torch.OutOfMemoryError:
        return
    except Exception as probe:
        raise DeviceLost(f"{device} is lost, and this process with it: {_first_line(probe)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
