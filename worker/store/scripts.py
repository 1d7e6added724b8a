"""Every change of a job's state, each one atomic Lua script (`lua/`), in the key formats of RQ 3.0.

queued ──admit──▶ started ──commit──▶ finished, failed, canceled
   ▲                 │
   └─ requeue (drain), surrender (lost device), park (another version's), revoke and maintain (lost worker)

`enqueue`, `cancel` and `sweep` come from the gateway; so do `claim` and `settle`, which deliver webhooks: the script
that ends a job says that its webhook is due. Every instant in a record is of Redis' clock, stamped by scripts.

`x_exec` in the job's hash is the fencing token: only the execution named there may touch a started job. Because popping
a job and leasing it are one script, there is no moment at which a killed worker could lose it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from worker.jobs import PRIORITIES
from worker.store.connection import able
from worker.store.keys import Key

LUA = Path(__file__).with_name("lua")
# Filled into the scripts' text: as local variables of each script they would cost a tenth of a short one's time.
CONSTANTS = {key.name: f"'{key}'" for key in Key} | {"PRIORITIES": f"{{{', '.join(map(repr, PRIORITIES))}}}"}
CONSTANT = re.compile(rf"\b({'|'.join(CONSTANTS)})\b")
ARGUMENTS = re.compile(r"^local (.+) = unpack\(arguments\)$", re.MULTILINE)
PREVIEW_TTL_S = 60  # after the last client has looked


class Script:
    """One script; `run` for a blocking client, `arun` for an asyncio one. Reply in bytes, as Redis gives it.

    Its statement `local NAME, … = unpack(arguments)` names what it is called with. Arguments are whatever JSON can say;
    bytes, which it cannot, go beside them, as ARGV[2].
    """

    def __init__(self, *parts: str) -> None:
        text = "\n".join([_read("lib/prelude"), *parts])
        self.source = CONSTANT.sub(lambda name: CONSTANTS[name[0]], text)
        found = ARGUMENTS.search(self.source)
        self._names = found[1].split(", ") if found else []
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()  # as Redis names it

    def run(self, redis: Any, *data: bytes, **arguments: Any) -> Any:
        packed = self._packed(arguments)
        with able():
            try:
                return redis.evalsha(self._sha, 0, packed, *data)
            except NoScriptError:  # new to this Redis, or forgotten when it restarted
                redis.script_load(self.source)
                return redis.evalsha(self._sha, 0, packed, *data)

    async def arun(self, redis: Any, *data: bytes, **arguments: Any) -> Any:
        packed = self._packed(arguments)
        with able():
            try:
                return await redis.evalsha(self._sha, 0, packed, *data)
            except NoScriptError:
                await redis.script_load(self.source)
                return await redis.evalsha(self._sha, 0, packed, *data)

    def _packed(self, arguments: dict[str, Any]) -> str:
        """In the script's order. Raises TypeError where other arguments are given than it names."""
        if len(arguments) != len(self._names) or not all(name in arguments for name in self._names):
            raise TypeError(f"the script takes {', '.join(self._names)}, not {', '.join(arguments)}")
        return json.dumps([arguments[name] for name in self._names])


def _read(name: str) -> str:
    return (LUA / f"{name}.lua").read_text(encoding="utf-8")


def _script(*names: str) -> Script:
    return Script(*(_read(name) for name in names))


enqueue = _script("enqueue")
spend = _script("spend")
positions = _script("positions")
served = _script("served")
admit = _script("lib/unpark", "admit")
progress = _script("progress")
saved = _script("saved")
show = _script("show")
beat = _script("beat")
commit = _script("commit")
requeue = _script("lib/take_back", "requeue")
surrender = _script("lib/take_back", "surrender")
cancel = _script("cancel")
revoke = _script("revoke")
maintain = _script("lib/time", "lib/indexes", "maintain")
sweep = _script("lib/time", "sweep")
park = _script("park")
announce = _script("announce")
put = _script("put")
claim = _script("claim")
settle = _script("settle")
