"""How scripts are called, and where their keys have their names from."""

from __future__ import annotations

import re

import pytest
from redis import Redis

from tests.worker.processes import ROOT
from worker.store import scripts
from worker.store.keys import Key


def test_only_the_table_of_keys_knows_how_they_begin() -> None:
    files = [
        path for room in ("worker", "service") for kind in ("py", "lua") for path in (ROOT / room).rglob(f"*.{kind}")
    ]
    literal = re.compile(r"""["'](ldm:[a-z]|rq:|\{RQ)""")
    assert [path.name for path in files if literal.search(path.read_text())] == ["keys.py"]
    assert len(set(Key)) == len(Key.__members__)


def test_a_script_is_called_with_what_it_names_and_nothing_else(redis: Redis) -> None:
    script = scripts.Script("local one, two = unpack(arguments)\nreturn {one, two.a[2], ARGV[2], LEASES..'x'}")
    assert script.run(redis, b"\xff", one=1, two={"a": ["b", "c"]}) == [1, b"c", b"\xff", b"rq:wip:x"]
    for wrong in ({"one": 1}, {"one": 1, "two": 2, "three": 3}, {"one": 1, "three": 3}):
        with pytest.raises(TypeError, match="takes one, two"):
            script.run(redis, **wrong)


def test_a_redis_that_has_forgotten_its_scripts_is_told_again(redis: Redis) -> None:
    script = scripts.Script("return 1")
    for _ in range(2):
        redis.script_flush()
        assert script.run(redis) == 1
