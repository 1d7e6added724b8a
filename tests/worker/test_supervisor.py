"""How the supervisor treats one child; `tests/end_to_end` has the whole of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.worker.processes import eventually
from worker.process import supervisor
from worker.process.restarts import BACK_OFF_S, Restarts
from worker.process.supervisor import Child, Supervisor
from worker.settings import ServeSettings
from worker.vital import EXIT_BAD_SETTING


def child(tmp_path: Path, program: str) -> Child:
    (tmp_path / "program.py").write_text(program)
    return Child("program", ["program"], os.environ | {"PYTHONPATH": str(tmp_path)})


def test_a_child_that_dies_at_once_is_given_longer_and_longer_pauses(tmp_path: Path) -> None:
    dying = child(tmp_path, "raise SystemExit(5)")
    pauses = []
    for _ in range(3):
        dying.start()
        assert eventually(dying.exit_code) == 5
        assert dying.exit_code() is None  # it is reported once
        pauses.append(round(dying.not_before - time.monotonic(), 1))
    assert pauses == [BACK_OFF_S[0], 2 * BACK_OFF_S[0], 4 * BACK_OFF_S[0]]


def test_a_child_that_had_been_up_starts_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONG_LIFE_S", 0.0)
    mortal = child(tmp_path, "raise SystemExit(5)")
    mortal.restarts.ever_served = True
    for _ in range(2):
        mortal.start()
        assert eventually(mortal.exit_code) == 5
        assert mortal.not_before <= time.monotonic()


def test_a_bad_setting_is_final_only_where_the_child_never_served() -> None:
    restarts = Restarts()
    assert restarts.pause_s(served=False) == BACK_OFF_S[0]
    assert restarts.is_final(EXIT_BAD_SETTING) and not restarts.is_final(1)
    assert [restarts.pause_s(served=True), restarts.pause_s(served=False)] == [0.0, BACK_OFF_S[0]]
    assert not restarts.is_final(EXIT_BAD_SETTING)


def test_a_redis_that_does_not_answer_is_said_before_models_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ServeSettings(redis_url="redis://:hunter2@127.0.0.1:1/0", data_dir=tmp_path)
    Supervisor(settings)._look_for_redis()
    said = capsys.readouterr().out
    assert said.startswith("ldm: not ready: Redis at 127.0.0.1:1 does not answer (") and "hunter2" not in said


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = child(
        tmp_path,
        f"import signal, pathlib; signal.signal({int(signal.SIGTERM)}, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); [signal.pause() for _ in iter(int, 1)]",
    )
    deaf.start()
    assert deaf.process is not None
    pid = deaf.process.pid
    eventually(ready.exists)
    deaf.terminate()
    deaf.wait(0.2)
    assert deaf.process is None
    assert not Path(f"/proc/{pid}").exists() or sys.platform != "linux"


def test_a_child_never_imports_from_where_the_user_happens_to_be(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit(9)")
    clean = child(tmp_path, "import json; raise SystemExit(4)")
    before = Path.cwd()
    os.chdir(tmp_path / "here")
    try:
        clean.start()
        assert eventually(clean.exit_code) == 4
    finally:
        os.chdir(before)
