"""Where images go: checked before anything is drawn, written whole or not at all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from service.commands.stop import USAGE, Stop, say

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
STDOUT = "-"


class Output(NamedTuple):
    """`out` is a path, - for standard output, or None: the images are only shown."""

    out: str | None
    force: bool
    quiet: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Output:
        return cls(args.out, args.force, args.quiet)

    def check(self, n: int) -> None:
        """Raises Stop where `n` images could not be written."""
        if self.out is None:
            return
        if self.out == STDOUT:
            self._check_stdout(n)
            return
        for path in self.paths(n):
            if path.is_dir():
                raise Stop(f"--out: {path} is a directory", USAGE)
            if path.exists() and not self.force:
                raise Stop(f"--out: {path} exists; --force overwrites it", USAGE)
            if not path.parent.is_dir():
                raise Stop(f"--out: there is no directory {path.parent}", USAGE)
            if not os.access(path.parent, os.W_OK):
                raise Stop(f"--out: {path.parent} cannot be written to", USAGE)

    def _check_stdout(self, n: int) -> None:
        if n > 1:
            raise Stop(f"--out: standard output takes one image, not {n}", USAGE)
        if sys.stdout.isatty():
            raise Stop("--out: standard output is a terminal; send it to a file or a program", USAGE)

    def paths(self, n: int) -> list[Path]:
        """One file for one image; out-1.png, out-2.png for several."""
        path = Path(self.out or "").expanduser()
        if n == 1:
            return [path]
        return [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(n)]

    def write(self, images: Sequence[bytes]) -> None:
        """Raises Stop where the disk does not take them."""
        if self.out == STDOUT:
            sys.stdout.buffer.write(images[0])
            sys.stdout.buffer.flush()
        elif self.out is not None:
            for path, data in zip(self.paths(len(images)), images, strict=True):
                self._write(path, data)

    def _write(self, path: Path, data: bytes) -> None:
        part = path.with_name(f".{path.name}.{os.getpid()}.part") if self.force else path
        try:
            with part.open("xb") as file:  # refuses what has come meanwhile
                _whole(file, data, part)
            if self.force:
                part.replace(path)
        except OSError as error:
            raise Stop(f"--out: cannot write {path}: {error.strerror}") from None
        if not self.quiet:
            say(f"wrote {path}")


def _whole(file: BinaryIO, data: bytes, path: Path) -> None:
    """Leaves no half of a file behind."""
    try:
        file.write(data)
        file.flush()
    except BaseException:
        path.unlink()
        raise


def format_of(out: str | None, asked: str | None) -> str | None:
    """The format that `--out` means where none is asked for. Raises Stop for a suffix that stands for none."""
    suffix = Path(out or "").suffix.lower()
    if out in {None, STDOUT} or not suffix or (asked and suffix not in FORMATS):
        return asked
    if suffix not in FORMATS:
        raise Stop(f"--out: {suffix} is no format here; there are {', '.join(FORMATS)} (or say --format)", USAGE)
    if asked and FORMATS[suffix] != asked:
        say(f"warning: --out: {out} will hold {asked.upper()}, as --format asks")
    return asked or FORMATS[suffix]
