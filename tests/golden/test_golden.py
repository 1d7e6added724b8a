"""The reference's numbers, case by case; what the runner says of them when it runs alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.golden.__main__ import main
from tests.golden.case import Case
from tests.golden.compare import compare

DATA = Path(__file__).parent / "data"
CASES = sorted(path.parent.name for path in DATA.glob("*/case.json"))


@pytest.mark.parametrize("name", CASES)
def test_every_quantity_is_what_the_reference_computed(name: str, tmp_path: Path) -> None:
    rows = compare(Case(DATA / name, tmp_path))
    assert rows
    assert [row for row in rows if not row.ok] == []


def test_the_families_of_the_paper_are_all_there() -> None:
    kinds = {json.loads((DATA / name / "case.json").read_text())["kind"] for name in CASES}
    assert kinds == {"ae", "bert", "class", "clip", "inpaint", "layout", "semantic", "sr", "uncond"}


def test_the_runner_fails_where_a_number_is_off_or_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = tmp_path / "case"
    shutil.copytree(DATA / "v-kl-f8", case)
    info = json.loads((case / "case.json").read_text())
    info["tensors"]["first_stage/decoded"]["atol"] = 1e-12
    info["tensors"]["first_stage/dreamt"] = {"role": "output", "shape": [1], "dtype": "float32", "atol": 1}
    (case / "case.json").write_text(json.dumps(info))
    monkeypatch.setattr("sys.argv", ["golden", str(case)])
    assert main() == 1
    missed = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "MISSED" in line]
    assert missed == ["first_stage/decoded", "first_stage/dreamt"]
