"""Whether a Redis is set up to keep what it is given. No torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError

from ldm_core.errors import LdmError
from worker.store.connection import WrongDatabase

log = logging.getLogger(__name__)

HEAD_ROOM = 0.1  # of maxmemory, kept free of new jobs for the ends of those that are there
VOLATILE = "Redis has no append-only file (appendonly no): accepted jobs are lost when it restarts"


class Unusable(LdmError):
    """Redis cannot be used as it, or LDM_REDIS_URL, is set up."""


class Evicts(Unusable):
    """Redis drops keys, jobs among them, when its memory is full."""


@dataclass(frozen=True, slots=True)
class Health:
    """What `INFO` says. `used` and `maximum` (0: none is set) are bytes of memory, `writes`: its disk takes them."""

    policy: str
    used: int
    maximum: int
    appends: bool
    writes: bool

    @classmethod
    def of(cls, memory: Mapping[str, Any], persistence: Mapping[str, Any]) -> Health:
        """From the replies to `INFO memory` and `INFO persistence`, as redis-py gives them."""
        return cls(
            policy=str(memory.get("maxmemory_policy", "noeviction")),
            used=int(memory.get("used_memory", 0)),
            maximum=int(memory.get("maxmemory", 0)),
            appends=bool(int(persistence.get("aof_enabled", 1))),
            writes=persistence.get("aof_last_write_status", "ok") == "ok",
        )

    @property
    def evicts(self) -> str:
        """A sentence about a policy that loses jobs; empty for `noeviction`."""
        if self.policy == "noeviction":
            return ""
        return (
            f"Redis has maxmemory-policy {self.policy}: when its memory is full it drops accepted jobs; "
            "set it to noeviction, or LDM_ALLOW_EVICTION=1 to go on all the same"
        )

    @property
    def free(self) -> int:
        """Bytes that new jobs and their images may still take; -1: any number."""
        return max(0, int(self.maximum * (1 - HEAD_ROOM)) - self.used) if self.maximum else -1


UNKNOWN = Health("noeviction", 0, 0, appends=True, writes=True)  # of a Redis that does not let us ask


def inspect(redis: Any, *, allow_eviction: bool) -> Health:
    """Asks Redis, logs what endangers jobs, raises Unusable where it would lose or refuse them; and what it raises."""
    try:
        health = Health.of(redis.info("memory"), redis.info("persistence"))
    except NoPermissionError:
        return UNKNOWN
    except WrongDatabase as error:
        raise Unusable(str(error)) from error
    warn(health)
    refuse(health, allow_eviction=allow_eviction)
    return health


def warn(health: Health) -> None:
    """A line in the log for everything that endangers jobs."""
    if health.evicts:
        log.warning("%s", health.evicts)
    if not health.appends:
        log.warning("%s", VOLATILE)


def refuse(health: Health, *, allow_eviction: bool) -> None:
    """Raises Evicts where Redis would drop jobs; without a maxmemory it never does."""
    if health.evicts and health.maximum and not allow_eviction:
        raise Evicts(health.evicts)
