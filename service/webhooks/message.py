"""What a webhook is told, in the form of Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook

from service.access.links import Links
from service.answers.answers import job_json
from worker.jobs import JobView


@dataclass(frozen=True, slots=True)
class Message:
    """A body, and the headers that sign it."""

    body: bytes
    headers: dict[str, str]


def message_of(view: JobView, links: Links, secrets: Sequence[str], now: float) -> Message:
    """Signs the job's end with each of the secrets; `now` in Unix seconds.

    Its id is the same whenever it is sent: a job ends once.
    """
    job = job_json(view, links)
    told = {"type": f"job.{view.status}", "timestamp": job["finished_at"], "data": job}
    body, message_id = json.dumps(told, ensure_ascii=False, separators=(",", ":")), f"msg_{view.payload.id}"
    at = datetime.fromtimestamp(int(now), UTC)
    signatures = [Webhook(secret).sign(message_id, at, body) for secret in secrets]
    return Message(body.encode(), {
        "content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(signatures),
    })  # fmt: skip
