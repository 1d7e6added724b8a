"""Every change of a job's state, each one atomic Lua script, in the key formats of RQ 3.0.

queued ──ADMIT──▶ started ──COMMIT──▶ finished, failed, canceled
   ▲                 │
   └─ REQUEUE (drain), PARK (another version's), REVOKE and MAINTAIN (lost worker)

ENQUEUE, CANCEL and SWEEP come from the gateway. Every instant in a record is of Redis' clock, stamped by these scripts.

`x_exec` in the job's hash is the fencing token: only the execution named there may touch a started job. Because popping
a job and leasing it are one script, there is no moment at which a killed worker could lose it.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError
from rq.defaults import RQ_KEY_PREFIX

from worker.store.connection import able
from worker.store.lua.alive import ANNOUNCE, PUT
from worker.store.lua.gateway import CANCEL, ENQUEUE, POSITIONS, SERVED
from worker.store.lua.held import ADMIT, BEAT, COMMIT, PROGRESS, REQUEUE, SAVED
from worker.store.lua.lost import MAINTAIN, REVOKE, SWEEP
from worker.store.lua.pace import SPEND
from worker.store.lua.parked import PARK
from worker.store.lua.prelude import PRELUDE

OPEN = "ldm:open"  # sorted set: every job that is queued or running
LITTER = "ldm:litter"  # list: jobs that ended in no worker's hands, with images to delete
EVENTS = "ldm:events"  # capped stream: what happened to which job
WORKERS = "ldm:workers"  # set: names of workers that may be alive
KNOWN_MODELS = "ldm:models"  # sorted set: {"id", "tasks"} of every model that was served, by when it was last (Unix s)
PREVIEW_TTL_S = 60  # after the last client has looked


def owner_jobs_key(owner: str) -> str:
    """A sorted set of an owner's jobs by the time of their submission, until their records expire."""
    return f"ldm:jobs:{owner}"


def idempotency_key(owner: str, key: str) -> str:
    """A hash: the job that a request with this key made, and the request's fingerprint."""
    return f"ldm:idem:{owner}:{key}"


def ring_key(base: str) -> str:
    """A list of the queues of one MODEL.PRIORITY that have jobs, in the order of their owners' turns."""
    return f"ldm:ring:{base}"


def bell_key(model: str) -> str:
    """A list with a token for every job enqueued lately: idle workers block on it. A lost token costs a second."""
    return f"ldm:bell:{model}"


def commands_key(worker: str) -> str:
    """A list of job ids that this worker shall cancel."""
    return f"ldm:commands:{worker}"


def preview_key(job_id: str) -> str:
    """The newest preview of a job, a JPEG; empty until there is one. It is there while a client looks."""
    return f"ldm:preview:{job_id}"


def weights_key(worker: str) -> str:
    """The digests and dtypes of the worker's models, as JSON; expires with its cards."""
    return f"ldm:weights:{worker}"


def worker_key(worker: str) -> str:
    """The worker's model cards, as JSON; expires when its heartbeat stops."""
    return f"ldm:worker:{worker}"


class Script:
    """One script; `run` for a blocking client, `arun` for an asyncio one. Reply in bytes, as Redis gives it."""

    def __init__(self, body: str) -> None:
        self.source = (PRELUDE + body).replace("@RQ@", RQ_KEY_PREFIX)
        self.sha = ""

    def run(self, redis: Any, *args: Any) -> Any:
        with able():
            try:
                return redis.evalsha(self.sha or self._load(redis), 0, *args)
            except NoScriptError:  # a restarted Redis has forgotten it
                return redis.evalsha(self._load(redis), 0, *args)

    async def arun(self, redis: Any, *args: Any) -> Any:
        with able():
            try:
                return await redis.evalsha(self.sha or await self._aload(redis), 0, *args)
            except NoScriptError:
                return await redis.evalsha(await self._aload(redis), 0, *args)

    def _load(self, redis: Any) -> str:
        self.sha = _text(redis.script_load(self.source))
        return self.sha

    async def _aload(self, redis: Any) -> str:
        self.sha = _text(await redis.script_load(self.source))
        return self.sha


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


enqueue = Script(ENQUEUE)
spend = Script(SPEND)
positions = Script(POSITIONS)
served = Script(SERVED)
admit = Script(ADMIT)
progress = Script(PROGRESS)
saved = Script(SAVED)
beat = Script(BEAT)
commit = Script(COMMIT)
requeue = Script(REQUEUE)
cancel = Script(CANCEL)
revoke = Script(REVOKE)
maintain = Script(MAINTAIN)
sweep = Script(SWEEP)
park = Script(PARK)
announce = Script(ANNOUNCE)
put = Script(PUT)
