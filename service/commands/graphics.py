"""Images in terminals that show them: kitty's graphics protocol, iTerm2's inline images, sixel."""

from __future__ import annotations

import fcntl
import io
import struct
import sys
import termios
from base64 import standard_b64encode
from collections.abc import Callable, Iterator, Mapping

from PIL import Image

Protocol = Callable[
    [bytes, int, bool], bytes
]  # a file and the lines that it shall take; whether others follow in place

CHUNK = 4096  # of base64, the most that kitty takes at once
PLACE = 4711  # the id under which previews take each other's place
COLOURS = 64
CELL = 20  # pixels of a line, where the terminal does not say


def protocol(chosen: str, environment: Mapping[str, str]) -> Protocol | None:
    """How images reach the terminal on stderr; None: not at all, and never where that is no terminal."""
    if not sys.stderr.isatty() or chosen == "off":
        return None
    name = _detected(environment) if chosen == "auto" else chosen
    return {"kitty": kitty, "iterm2": iterm2, "sixel": sixel}.get(name)


def _detected(environment: Mapping[str, str]) -> str:
    """By what terminals say of themselves. Inside tmux and screen images would have to be wrapped: there are none."""
    if environment.get("TMUX") or environment.get("TERM", "").startswith(("screen", "tmux")):
        return ""
    program = environment.get("TERM_PROGRAM", "")
    kitty_terms = {"xterm-kitty", "xterm-ghostty"}
    if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in kitty_terms or program == "ghostty":
        return "kitty"
    if program in {"iTerm.app", "WezTerm"} or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return ""


def kitty(data: bytes, lines: int, in_place: bool) -> bytes:
    """Kitty takes PNG, in chunks; with an id, an image replaces the one before it, and leaves the cursor alone."""
    payload = standard_b64encode(_as_png(data))
    chunks = [payload[i : i + CHUNK] for i in range(0, len(payload), CHUNK)]
    first = f"a=T,f=100,q=2,r={lines}" + (f",i={PLACE},p=1,C=1" if in_place else "")
    keys = [first, *[""] * (len(chunks) - 1)]
    ended = (f"{key}{',' if key else ''}m={int(i < len(chunks) - 1)}" for i, key in enumerate(keys))
    return b"".join(b"\x1b_G%b;%b\x1b\\" % (key.encode(), chunk) for key, chunk in zip(ended, chunks, strict=True))


def iterm2(data: bytes, lines: int, in_place: bool) -> bytes:
    """ITerm2 takes any file."""
    head = f"\x1b]1337;File=inline=1;size={len(data)};height={lines};preserveAspectRatio=1:"
    return head.encode() + standard_b64encode(data) + b"\x07"


def sixel(data: bytes, lines: int, in_place: bool) -> bytes:
    """Bands of six lines; in each band every colour draws the columns where it stands."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    height = lines * _cell_height() // 6 * 6
    image = image.resize((max(1, round(image.width * height / image.height)), height))
    table = image.quantize(COLOURS)
    palette = table.getpalette() or []
    colours = "".join(
        f"#{i};2;{';'.join(str(round(c * 100 / 255)) for c in palette[3 * i : 3 * i + 3])}"
        for i in range(len(palette) // 3)
    )
    bands = "-".join(_band(table, top) for top in range(0, height, 6))
    return f'\x1bPq"1;1;{table.width};{height}{colours}{bands}\x1b\\'.encode()


def _band(table: Image.Image, top: int) -> str:
    """Six lines of an image with a palette."""
    width, pixels = table.width, table.crop((0, top, table.width, top + 6)).tobytes()
    rows: dict[int, bytearray] = {}
    for i, colour in enumerate(pixels):
        rows.setdefault(colour, bytearray(width))[i % width] |= 1 << (i // width)
    return "$".join(f"#{colour}{''.join(_runs(row))}" for colour, row in rows.items())


def _runs(row: bytearray) -> Iterator[str]:
    """Columns as characters; repeated ones are counted."""
    start = 0
    for i in range(1, len(row) + 1):
        if i == len(row) or row[i] != row[start]:
            n, char = i - start, chr(63 + row[start])
            yield f"!{n}{char}" if n > 3 else char * n
            start = i


def _as_png(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG"):
        return data
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "PNG")
    return out.getvalue()


def _cell_height() -> int:
    """Pixels of a line of the terminal on stderr."""
    try:
        rows, _, _, height = struct.unpack("HHHH", fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return CELL
    return height // rows if rows and height else CELL
