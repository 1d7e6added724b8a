"""What the gateway reads from the environment, once, at its start."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator

from service.access.origins import parse_hosts, parse_origins
from service.access.webhooks import WebhookRules, parse_webhook_hosts, parse_webhook_secrets
from worker.settings import SharedSettings

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


class GatewaySettings(SharedSettings):
    """One gateway process. Every field is the environment variable LDM_<NAME>."""

    host: str = Field(default="127.0.0.1", description="the address that the gateway listens on")
    port: int = Field(default=8000, ge=1, le=65535, description="the port that the gateway listens on")
    max_body_bytes: int = Field(default=20 * 2**20, ge=1024, description="a larger request gets `413`")
    bodies_budget_bytes: int = Field(
        default=256 * 2**20,
        description="bytes of all request bodies held at once, at least twice `LDM_MAX_BODY_BYTES`; beyond: `503` with "
        "`Retry-After`; one API key may hold half",
    )
    headers_timeout_s: float = Field(
        default=20,
        gt=0,
        description="seconds for a request's headers, and for a client to read on; a slower one gets `408`",
    )
    body_timeout_s: float = Field(
        default=60,
        gt=0,
        description="seconds for a request's body; a slower one gets `408`",
    )
    queue_limit: int = Field(
        default=1000,
        ge=1,
        description="jobs of one model, waiting and running, and four times as many of all; beyond: `429`; with API "
        "keys a quarter is kept for keys with less than an equal share",
    )
    queue_ttl_s: int = Field(default=3600, ge=1, description="seconds that a job waits for a worker before it fails")
    result_ttl_s: int = Field(default=3600, ge=1, description="seconds that an ended job and its images are kept")
    job_timeout_s: int = Field(default=600, ge=1, description="seconds that a job may run")
    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="who may send jobs: `NAME:KEY` or `NAME:SHA256`, comma-separated",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="a TOML file of who may send jobs, with limits; `ldm key NAME` makes its entries",
    )
    signed_url_ttl_s: int = Field(
        default=600,
        ge=1,
        le=86400,
        description="with API keys: seconds that a signed URL works",
    )
    cors_origins: str = Field(
        default="",
        description="comma-separated origins whose pages may use the server, or `*`",
    )
    allowed_hosts: str = Field(
        default="",
        description="comma-separated names under which the server is reached, or `*`; without API keys it answers as "
        "these, as `LDM_HOST` and as loopback alone",
    )
    mcp: bool = Field(default=True, description="0 leaves out `/mcp`, the tools for assistants")
    root_path: str = Field(
        default="",
        description="the path under which a proxy shows the server, such as `/ldm`, stripped or not",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="comma-separated addresses or networks of proxies whose `X-Forwarded-Proto` is believed, or `*`",
    )
    webhook_hosts: str = Field(
        default="",
        description="comma-separated hosts that may be told the end of a job, such as `hooks.example.com` or "
        "`*.example.com:8443`; empty: no webhooks",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="`whsec_` and base64, with which calls of webhooks are signed; two, comma-separated, while "
        "receivers change",
    )
    webhook_private: bool = Field(
        default=False,
        description="1 also calls `http://` and addresses that are not public",
    )
    webhook_backoff_s: str = Field(
        default="5,300,1800,7200,18000,36000,50400,72000,86400",
        description="seconds to wait after each attempt that went wrong; after one more the webhook is given up",
    )
    playground: bool = Field(default=True, description="0 leaves out the page at `/`")

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # as compose files pass on a variable that is not set

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
