"""Reading ahead ends with its block, whatever becomes of the file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ldm_core.weights.read_ahead import reading_ahead


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_a_file_without_end_does_not_hold_the_block() -> None:
    with reading_ahead(Path("/dev/zero")):
        assert _threads()
    assert not _threads()


def test_a_file_that_is_not_there_is_for_others_to_complain_of(tmp_path: Path) -> None:
    with reading_ahead(tmp_path / "none"), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert not _threads()
