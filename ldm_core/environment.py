"""Environment variables that OpenMP, MKL, cuBLAS and the hub's library read once, as they are loaded. No torch.

OpenMP: the threads of a pool wait for each other at the end of every operator. libgomp lets them spin there for
milliseconds, which on a host that is busy with something else burns the very core that the awaited thread needs.
MKL: a matrix product may add its terms in another order for a row at the end of a block than for one inside. In MKL's
strict mode (conditional numerical reproducibility) each row of a product has the same bits wherever it is, in a product
of at least two rows.
cuBLAS: with a workspace of fixed size for each stream, a product takes the same algorithm at every call.
The hub: its library takes an empty HF_ENDPOINT for an address, an empty HF_HOME for the current directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

SPINS = "1400"  # some 60 µs: enough between most operators, little against a time slice (benchmarks.busy_neighbour)
REPRODUCIBLE = "AUTO,STRICT"
WORKSPACE = ":4096:8"  # eight buffers of 4096 KiB: what torch takes on the largest GPUs


def set_up(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the operator has not set, for torch only before it is loaded; an empty HF_* is one that is not set."""
    for name in [name for name, value in environment.items() if name.startswith("HF_") and not value]:
        del environment[name]
    if "torch" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
    environment.setdefault("MKL_CBWR", REPRODUCIBLE)
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
