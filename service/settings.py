"""What the gateway reads from the environment, once, at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.settings import default_data_dir


class GatewaySettings(BaseSettings):
    """One gateway process. Every field is the environment variable LDM_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="LDM_", extra="ignore")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", pattern=r"^(redis|rediss|unix)://")
    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    max_body_bytes: int = Field(default=20 * 2**20, ge=1024)
    headers_timeout_s: float = Field(default=20, gt=0)  # for a request's headers as a whole; for a client to read on
    body_timeout_s: float = Field(default=60, gt=0)  # for a request's body as a whole
    queue_limit: int = Field(default=1000, ge=1)
    result_ttl_s: int = Field(default=3600, ge=1)
    job_timeout_s: int = Field(default=600, ge=1)
    api_keys: SecretStr = SecretStr("")  # NAME:KEY or NAME:SHA256, comma-separated
    api_keys_file: Path | None = None
    log_format: Literal["json", "text"] = "json"

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # as compose files pass on a variable that is not set
