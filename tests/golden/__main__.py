"""python -m tests.golden DIR...: imports each case, computes every quantity of it, prints a table.

Exits 1 if a quantity misses its tolerance or was not compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.golden.case import Case
from tests.golden.compare import Row, compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a case, or a folder of cases")
    folders = [folder for given in parser.parse_args().folders for folder in _cases(given)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for number, folder in enumerate(folders):
            for row in compare(Case(folder, Path(work) / str(number))):
                print(_line(row), flush=True)
                rows.append(row)
    missed = [row for row in rows if not row.ok]
    print(f"{len(rows)} quantities of {len(folders)} cases, {len(missed)} missed")
    return 1 if missed or not rows else 0


def _cases(given: Path) -> list[Path]:
    return [given] if (given / "case.json").exists() else sorted(path.parent for path in given.glob("*/case.json"))


def _line(row: Row) -> str:
    tolerance = "-" if row.tolerance is None else f"{row.tolerance:.1e}"
    verdict = "ok" if row.ok else "MISSED"
    return f"{row.case:16s} {row.quantity:36s} {row.difference:9.2e} {tolerance:>9s}  {verdict}  {row.remark}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
