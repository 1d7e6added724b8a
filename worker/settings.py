"""What the worker and `ldm serve` read from the environment, once, at their start. No torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

BUILTIN = Path(__file__).resolve().parent.parent / "ldm_core" / "builtin"
SECRETS, HIDDEN = {"REDIS_URL", "API_KEYS", "WEBHOOK_SECRET"}, "***"  # settings whose values no message repeats
Settings = TypeVar("Settings", bound=BaseSettings)


def default_data_dir() -> Path:
    """Where a user's own data belongs (XDG base directories)."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "ldm-service"


DataDir = Annotated[
    Path,
    BeforeValidator(lambda value: value or default_data_dir()),  # empty: as if it were not set
    Field(
        default_factory=default_data_dir,
        description="a folder: the embedded Redis of `ldm serve`, and images where gateway and worker share a host",
    ),
]


def checked_redis_url(value: str) -> str:
    """The address of a Redis. Raises ValueError, which repeats nothing of it: there may be a password in it."""
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    try:
        parse_url(value)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError("has a port or an option that cannot be read") from None
    return value


class SharedSettings(BaseSettings):
    """What every process reads: gateways and workers."""

    model_config = SettingsConfigDict(env_prefix="LDM_", extra="ignore", protected_namespaces=())

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="the Redis that gateways and workers share: `redis://`, `rediss://` with TLS, or `unix://`",
    )
    data_dir: DataDir
    allow_eviction: bool = Field(
        default=False,
        description="1 goes on with a Redis whose `maxmemory-policy` drops keys, and jobs with them",
    )
    log_format: Literal["json", "text"] = Field(
        default="json",
        description="`json`: one object a line; `text`: for people",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return checked_redis_url(value)


class WorkerSettings(SharedSettings):
    """One worker process. Every field is the environment variable LDM_<NAME>."""

    model: str = Field(
        default="",
        description="model directories to serve, comma-separated; empty: the models that come with the package",
    )
    device: str = Field(
        default="auto", description="`cpu`, `cuda`, `cuda:1`; `auto`: a GPU, or where there is none the CPU"
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="`float32`, `bfloat16`, on GPUs also `float16`; `auto`: on CUDA bfloat16, or float16 below compute "
        "capability 8.0; float32 on a CPU",
    )
    rows: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="how many rows the smallest U-Net call computes, as fixed sizes keep the bytes equal; fewer are "
        "filled up. Empty: chosen for each model and device; larger calls are made where they give the same bytes",
    )
    max_rows: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="rows that run at once; an image takes one, with guidance two",
    )
    png_metadata: bool = Field(default=True, description="0 leaves the parameters out of PNGs")
    provenance: bool = Field(default=True, description="0 leaves out of images that a trained model made them")
    c2pa_cert: Path | None = Field(
        default=None,
        description="a PEM file: the certificate chain with which each image is signed (Content Credentials)",
    )
    c2pa_key: Path | None = Field(
        default=None,
        description="a PEM file: the private key of `LDM_C2PA_CERT`; both are set or none",
    )
    metrics_host: str = Field(
        default="0.0.0.0",  # noqa: S104 - Prometheus comes from another host; `ldm serve` narrows it
        description="the address at which a worker's metrics listen; 127.0.0.1 under `ldm serve`",
    )
    metrics_port: int = Field(default=9100, ge=0, le=65535, description="the port of a worker's metrics; 0: none")
    worker_name: str = Field(default="", description="a worker's name in Redis and in logs; made up by default")
    checkpoint_s: float = Field(
        default=5,
        gt=0,
        description="seconds between two saves of a long job, from which another worker can go on",
    )
    drain_s: float = Field(default=60, ge=0, description="at SIGTERM: for how many seconds running jobs may go on")
    step_timeout_s: float = Field(
        default=120,
        gt=0,
        description="seconds that one step of one batch may take on the device (of a large image: one window of it); "
        "then the device counts as hung and the worker restarts. Raise it where a large model is slow on a CPU",
    )
    lease_s: int = Field(
        default=20,
        ge=1,
        description="seconds without a heartbeat after which a worker counts as lost and its jobs are queued again",
    )
    beat_s: float = Field(
        default=5,
        gt=0,
        description="seconds between two heartbeats; at most a third of `LDM_LEASE_S`",
    )

    @field_validator("c2pa_cert", "c2pa_key", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # as compose files pass on a variable that is not set

    @model_validator(mode="after")
    def _both_or_none(self) -> WorkerSettings:
        if (self.c2pa_cert is None) != (self.c2pa_key is None):
            raise ValueError("LDM_C2PA_CERT and LDM_C2PA_KEY go together")
        return self

    @model_validator(mode="after")
    def _in_time(self) -> WorkerSettings:
        if self.beat_s > self.lease_s / 3:
            raise ValueError(f"LDM_BEAT_S={self.beat_s:g} must be at most a third of LDM_LEASE_S={self.lease_s}")
        return self

    @model_validator(mode="after")
    def _room_for_a_call(self) -> WorkerSettings:
        if self.rows is not None and self.rows > self.max_rows:
            raise ValueError(f"LDM_ROWS={self.rows} must be at most LDM_MAX_ROWS={self.max_rows}")
        return self

    @property
    def held_s(self) -> float:
        """How long a job is a worker's after a beat: others look once a beat, and shall see it within a lease."""
        return max(self.lease_s - self.beat_s, self.lease_s / 2)

    @property
    def model_dirs(self) -> list[Path]:
        """The directories to load."""
        given = [Path(part.strip()).expanduser() for part in self.model.split(",") if part.strip()]
        return given or sorted(path.parent for path in BUILTIN.glob("*/model_index.json"))


class ServeSettings(BaseSettings):
    """`ldm serve`: what it must know itself. Everything else goes through to gateway and worker as it is."""

    model_config = SettingsConfigDict(env_prefix="LDM_", extra="ignore")

    redis_url: str = Field(default="", description="the Redis to use; empty: a private one under `LDM_DATA_DIR`")
    data_dir: DataDir
    host: str = Field(default="127.0.0.1", description="the address that the gateway listens on")
    port: int = Field(default=8000, ge=1, le=65535, description="the port that the gateway listens on")
    metrics_port: int = Field(default=8001, ge=0, le=65535, description="the port of the worker's metrics; 0: none")
    log_format: Literal["json", "text"] = Field(
        default="text",
        description="`json`: one object a line; `text`: for people",
    )
    drain_s: float = Field(
        default=3,
        ge=0,
        description="at SIGTERM: for how many seconds running jobs may go on; what is cut short runs again at the "
        "next start",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return value and checked_redis_url(value)


def read_settings(kind: type[Settings], **given: Any) -> Settings:
    """Reads `kind` from the environment, under what the command line gave. A bad value ends the process, named."""
    try:
        return kind(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            shown = HIDDEN if name in SECRETS else problem["input"]
            given_value = f"LDM_{name}={shown!s}: " if name else ""  # else it is about several of them
            detail = problem["ctx"]["error"] if problem["type"] == "value_error" else problem["msg"]
            print(f"{given_value}{detail}", file=sys.stderr)
        raise SystemExit(2) from None
