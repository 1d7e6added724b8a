"""Names that published checkpoints' pickles hold beside the weights, and what stands for them: nothing is imported.

Numbers, containers and settings are data, and of no use here. None of their code runs, not even numpy's: each name
becomes a class that takes whatever it is given and keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Inert:
    """Stands for an object; its arguments and its state are dropped."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class PlainDict:
    """Stands for a class of mappings, whose entries the pickle puts in one by one."""

    def __new__(cls, *arguments: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


class PlainList:
    """Stands for a class of sequences, likewise."""

    def __new__(cls, *arguments: Any) -> list[Any]:  # type: ignore[misc]
        return []


NUMPY = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "bool_", "bool", "float16", "float32", "float64", "int8",
                                   "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "str_")),
)  # fmt: skip
PYTHON = (
    *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "range",
                                      "slice", "str", "tuple")),
    "argparse.Namespace", "copyreg._reconstructor", "datetime.date", "datetime.datetime", "decimal.Decimal",
    "datetime.timedelta", "fractions.Fraction", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "types.SimpleNamespace", "typing.Any", "typing.Dict", "typing.List", "typing.Union", "uuid.UUID",
)  # fmt: skip
LIGHTNING = tuple(
    f"{package}.callbacks.{name}"
    for package in ("pytorch_lightning", "lightning.pytorch", "lightning")
    for name in ("early_stopping.EarlyStopping", "lr_monitor.LearningRateMonitor", "model_checkpoint.ModelCheckpoint",
                 "stochastic_weight_avg.StochasticWeightAveraging", "timer.Timer")
)  # fmt: skip
OTHERS = (
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "String")),
    *(f"torch.nn.modules.container.{name}" for name in ("ParameterDict", "ParameterList")),
    "torch.torch_version.TorchVersion",
)  # fmt: skip
MAPPINGS = (
    "collections.defaultdict", "diffusers.configuration_utils.FrozenDict", "easydict.EasyDict", "addict.addict.Dict",
    *(f"{package}.utilities.parsing.AttributeDict" for package in ("pytorch_lightning", "lightning.pytorch")),
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
)  # fmt: skip

STAND_INS: list[tuple[Callable[..., Any], str]] = [
    *((Inert, name) for name in (*NUMPY, *PYTHON, *LIGHTNING, *OTHERS)),
    *((PlainDict, name) for name in MAPPINGS),
    (PlainList, "collections.deque"),
]
