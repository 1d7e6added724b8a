"""What the gateway reads from the environment, once, at its start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.access.origins import parse_hosts, parse_origins
from service.access.webhooks import WebhookRules, parse_webhook_hosts, parse_webhook_secrets
from worker.settings import DataDir, checked_redis_url, default_data_dir

ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
SECONDS = re.compile(r"[0-9]{1,7}(\.[0-9]{1,3})?(,[0-9]{1,7}(\.[0-9]{1,3})?){0,19}")
OURS = {
    "v1",
    "sdapi",
    "mcp",
    "docs",
    "openapi.json",
    "healthz",
    "readyz",
    "metrics",
    "playground",
}  # first segments of this server's own paths


class GatewaySettings(BaseSettings):
    """One gateway process. Every field is the environment variable LDM_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="LDM_", extra="ignore")

    redis_url: str = "redis://127.0.0.1:6379/0"
    data_dir: DataDir = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    max_body_bytes: int = Field(default=20 * 2**20, ge=1024)
    bodies_budget_bytes: int = 256 * 2**20  # of all requests that are being received; one API key may take half
    headers_timeout_s: float = Field(default=20, gt=0)  # for a request's headers as a whole; for a client to read on
    body_timeout_s: float = Field(default=60, gt=0)  # for a request's body as a whole
    queue_limit: int = Field(default=1000, ge=1)  # of each model; four times as many of all together
    queue_ttl_s: int = Field(default=3600, ge=1)  # how long a job waits for a worker to take it
    allow_eviction: bool = False  # go on with a Redis that drops keys, jobs among them, when its memory is full
    result_ttl_s: int = Field(default=3600, ge=1)
    job_timeout_s: int = Field(default=600, ge=1)
    api_keys: SecretStr = SecretStr("")  # NAME:KEY or NAME:SHA256, comma-separated
    api_keys_file: Path | None = None
    signed_url_ttl_s: int = Field(default=600, ge=1, le=86400)  # how long a signed URL works
    cors_origins: str = ""  # comma-separated origins whose pages may use this server, or *
    allowed_hosts: str = ""  # comma-separated names under which it is reached, or *; loopback ones always are
    mcp: bool = True  # tools for assistants, at /mcp
    root_path: str = ""  # under which a proxy shows it, such as /ldm
    webhook_hosts: str = ""  # comma-separated: whom clients may have told the end of a job; empty: nobody
    webhook_secret: SecretStr = SecretStr("")  # whsec_…, with which that is signed; two while receivers change over
    webhook_private: bool = False  # also addresses that are not public, and http
    webhook_backoff_s: str = "5,300,1800,7200,18000,36000,50400,72000,86400"  # waits after attempts that went wrong
    playground: bool = True  # the page at /
    log_format: Literal["json", "text"] = "json"

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # as compose files pass on a variable that is not set

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return checked_redis_url(value)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        return ",".join(sorted(parse_origins(value)))

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        return ",".join(sorted(parse_hosts(value)))

    @field_validator("webhook_hosts")
    @classmethod
    def _are_webhook_hosts(cls, value: str) -> str:
        parse_webhook_hosts(value)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _is_secret(cls, value: SecretStr) -> SecretStr:
        parse_webhook_secrets(value.get_secret_value())
        return value

    @field_validator("webhook_backoff_s")
    @classmethod
    def _are_seconds(cls, value: str) -> str:
        if not SECONDS.fullmatch(value):
            raise ValueError("must be seconds to wait after each failed attempt, such as 5,300,1800")
        return value

    @field_validator("root_path")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        prefix = value.rstrip("/")
        if not ROOT_PATH.fullmatch(prefix):
            raise ValueError("must be a path such as /ldm: it begins with / and has letters, digits and . _ ~ -")
        if prefix.split("/")[1:2] and prefix.split("/")[1] in OURS:
            raise ValueError(f"must not begin with a path of this server's own: {', '.join(sorted(OURS))}")
        return prefix

    @property
    def webhook_rules(self) -> WebhookRules:
        """Which webhooks clients may name."""
        return WebhookRules(parse_webhook_hosts(self.webhook_hosts), self.webhook_private)

    @property
    def webhook_secrets(self) -> list[str]:
        """Each of them signs what webhooks are told."""
        return parse_webhook_secrets(self.webhook_secret.get_secret_value())

    @property
    def webhook_waits_s(self) -> list[float]:
        """How long to wait after each attempt that went wrong."""
        return [float(part) for part in self.webhook_backoff_s.split(",")]

    @model_validator(mode="after")
    def _signed(self) -> GatewaySettings:
        if parse_webhook_hosts(self.webhook_hosts) and not self.webhook_secrets:
            raise ValueError("LDM_WEBHOOK_SECRET must be set where LDM_WEBHOOK_HOSTS is: webhooks are signed with it")
        return self

    @model_validator(mode="after")
    def _room_for_the_largest(self) -> GatewaySettings:
        if self.bodies_budget_bytes < 2 * self.max_body_bytes:
            raise ValueError(
                f"LDM_BODIES_BUDGET_BYTES={self.bodies_budget_bytes} must be at least twice "
                f"LDM_MAX_BODY_BYTES={self.max_body_bytes}"
            )
        return self
