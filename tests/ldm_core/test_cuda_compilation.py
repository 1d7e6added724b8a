"""The Triton kernels, compiled without a GPU for Ampere and Hopper: they fit the registers and spill nothing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.networks import DENOISERS, FIRST_STAGES
from ldm_core.acceleration.cuda.layers import replace_layers

triton = pytest.importorskip("triton", reason="Triton is for Linux")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime import driver  # noqa: E402

from ldm_core.acceleration.cuda import launches  # noqa: E402
from ldm_core.acceleration.cuda.launches import GroupNormCall, Launch  # noqa: E402

POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
NAMES = ("sd1-512", "superres-256", "inpainting-512")
CAPABILITIES = (80, 90)
REGISTERS, MAX_REGISTERS = 2**16, 255  # of a processor, for the threads of one program; of a thread
WARP = 32
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles anew, and leaves nothing in the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    laid_out = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=laid_out)


def group_norms(side: int, channels: int, skip: int, dtype: torch.dtype, groups: int = 32) -> list[Launch]:
    """With everything that a GroupNorm takes."""
    rows, every = 2, channels + skip
    vectors = meta(rows, every, dtype=dtype), meta(rows, 2 * every, dtype=dtype)
    x, weight = meta(rows, channels, side, side, dtype=dtype), meta(every, dtype=dtype)
    joined = meta(rows, skip, side, side, dtype=dtype) if skip else None
    call = GroupNormCall(x, joined, weight, weight, groups, 1e-5, *vectors, silu=True)
    return call.launches(meta(rows, every, side, side, dtype=dtype))


def matrices(width: int, dtype: torch.dtype) -> list[Launch]:
    x, twice, vector = meta(64, width, dtype=dtype), meta(64, 2 * width, dtype=dtype), meta(width, dtype=dtype)
    return [
        launches.layer_norm(x, meta(64, width, dtype=dtype), vector, vector, 1e-5, vector.float()),
        launches.geglu(twice, x),
        launches.add_bias(x, meta(64, width, dtype=dtype), vector.float(), x),
    ]


def resources(launch: Launch, capability: int, **options: int) -> tuple[int, int]:
    """Registers and bytes of stack, to which registers spill, of one thread: from the machine code."""
    signature: dict[str, str] = {}
    aligned: dict[tuple[int], list[Any]] = {}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments.get(name)
        if isinstance(value, Tensor):
            signature[name], aligned[i,] = POINTERS[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "constexpr" if value is None else "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(launch.kernel, signature, launch.constants, aligned)
    target = GPUTarget("cuda", capability, WARP)
    code = triton.compile(source, target=target, options={"num_warps": launch.warps, **options}).asm["cubin"]
    return _resources(code)


def _resources(code: bytes) -> tuple[int, int]:
    with NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(code)
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told)
    assert found is not None, told
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def assert_fits(launch: Launch, capability: int) -> None:
    registers, spilled = resources(launch, capability)
    said = f"{launch.kernel.__name__} {launch.constants}"
    assert spilled == 0, said
    assert registers <= MAX_REGISTERS and registers * launch.warps * WARP <= REGISTERS, said


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_of_each_kernel_spills_nothing(dtype: torch.dtype, capability: int) -> None:
    found = [
        *group_norms(32, 640, 320, dtype), *group_norms(64, 640, 320, dtype), *group_norms(8, 1280, 1280, dtype),
        *matrices(1280, dtype),
    ]  # fmt: skip
    assert len({launch.kernel for launch in found}) == 6
    for launch in found:
        assert_fits(launch, capability)


def test_a_kernel_that_spills_would_be_seen() -> None:
    (_, normalise) = group_norms(64, 640, 320, torch.bfloat16)
    assert resources(normalise, 90)[1] == 0
    assert resources(normalise, 90, maxnreg=32)[1] > 0


class NoGpu:
    """What Triton asks of a driver to compile a call without running it."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, WARP)

    def get_current_device(self) -> int:
        return 99  # none that a test on a GPU would take the results of

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(launch: Launch) -> str:
    """The hash of what Triton compiles for a call."""
    kernel, values = launch.kernel, {**launch.arguments, **launch.constants}
    return kernel.run(grid=launch.grid, warmup=True, num_warps=launch.warps, **values).hash


def test_one_compilation_serves_every_number_of_rows_and_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """So rows have the bits that they have alone, and an image of another size waits for no compiler."""
    monkeypatch.setattr(driver, "_active", NoGpu())

    def calls(rows: int, height: int, width: int) -> list[str]:
        x = torch.zeros(rows, 16, height, width).contiguous(memory_format=torch.channels_last)
        vector, vectors, flat = torch.zeros(16), torch.zeros(rows, 32), x.permute(0, 2, 3, 1).flatten(0, 2)
        of_x = [x, None, vector, vector, 4, 1e-5]
        norm = GroupNormCall(*of_x, vectors[:, :16], vectors, silu=True)
        assert not norm.fits_registers
        others = [launches.layer_norm(flat, flat, vector, vector, 1e-5, None), launches.geglu(flat, flat[:, :8]),
                  launches.add_bias(flat, flat, vector, flat)]  # fmt: skip
        return [compiled(launch) for launch in (*norm.launches(x), *others)]

    first = calls(1, 64, 64)
    assert len({*first}) == 5
    assert calls(2, 64, 64) == calls(16, 64, 64) == calls(3, 57, 41) == first


class Launched(TorchDispatchMode):
    """Collects what calls on the meta device would launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "ldm":
            self.launches += self._of(func.overloadpacket.__name__, args, result)
        return result

    def _of(self, name: str, args: Any, result: Tensor) -> list[Launch]:
        if name == "group_norm":
            return GroupNormCall(*args).launches(result)
        width = result.shape[1] if name == "add_bias" else result.shape[-1]
        y = meta(result.numel() // width, width, dtype=result.dtype)
        match name:
            case "layer_norm":
                return [launches.layer_norm(y, y, *args[1:])]
            case "geglu":
                return [launches.geglu(args[0].flatten(0, 1), y)]
        return [launches.add_bias(y, y, args[1], None if args[2] is None else y)]


def distinct(found: list[Launch]) -> list[Launch]:
    """One of each that Triton compiles by itself."""
    kinds = {}
    for launch in found:
        dtypes = tuple(each.dtype for each in launch.arguments.values() if isinstance(each, Tensor))
        kinds[launch.kernel, *launch.constants.items(), launch.warps, dtypes] = launch
    return [*kinds.values()]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [(name, torch.bfloat16) for name in NAMES] + [("sd1-512", torch.float32)])
@torch.inference_mode()
def test_all_that_a_unet_launches_spills_nothing(name: str, dtype: torch.dtype) -> None:
    with torch.device("meta"):
        unet = DENOISERS[name].build().to(dtype)
    replace_layers(unet)
    with Launched() as launched:
        unet(*DENOISERS[name].inputs_on_meta(2, dtype))
    for launch in distinct(launched.launches):
        for capability in CAPABILITIES:
            assert_fits(launch, capability)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_all_that_a_decoder_launches_spills_nothing(dtype: torch.dtype) -> None:
    stage = FIRST_STAGES["kl-f8-512"]
    with torch.device("meta"):
        decoder = stage.build().to(dtype).decoder
    replace_layers(decoder)
    with Launched() as launched:
        decoder(meta(1, stage.config.latent_channels, stage.side, stage.side, dtype=dtype))
    for launch in distinct(launched.launches):
        for capability in CAPABILITIES:
            assert_fits(launch, capability)
