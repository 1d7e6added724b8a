"""Row counts of U-Net calls that give every row the same bytes, found by trying.

A call over eight rows takes a small U-Net a sixth to a third less time than four calls over two, but a product of
matrices of another height may add its terms in another order. Whether it does depends on shapes alone, not on numbers,
so one trial from end to end decides for all. What the trial's times decide changes no byte.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

MOST = 8  # rows: beyond them, `scenes` gains a tenth and a lone request waits longer for its turn
SLOW_S = 0.1  # a call that takes longer gains nothing from company, and trying would hold up the requests
WARM = 2  # calls of a shape cost more: weights are laid out for it, and then it is recorded (recorded.py)
WORTH = 0.9  # of the time per row


def row_counts(call: Callable[[list[int]], Tensor], have: int, base: int) -> tuple[int, ...]:
    """`base`, and larger counts that give the same and take less time a row, in growing order.

    `call` computes rows by their numbers below `have`; a number may come more than once.
    """
    rows = [i % have for i in range(MOST)]
    for _ in range(WARM):
        _, seconds = _in_calls(call, rows[:base], base)
    if seconds > 4 * SLOW_S or _in_calls(call, rows[:base], base)[1] > SLOW_S:  # as it is recorded, it takes longer
        return (base,)
    counts, (expected, best) = [base], _in_calls(call, rows, base)
    count = 2 * base
    while count <= MOST:
        for _ in range(WARM):
            call(rows[:count])
        found, seconds = _in_calls(call, rows, count)
        if torch.equal(found, expected) and seconds < WORTH * best:
            counts.append(count)
            best = seconds
        count *= 2
    logger.info("U-Net calls of %s rows, %.1f ms a row", ", ".join(map(str, counts)), 1e3 * best / MOST)
    return tuple(counts)


def calls(n: int, counts: Sequence[int]) -> Iterator[list[int]]:
    """Rows 0 … n-1 as calls of these counts; the last is filled up with copies whose results nobody reads."""
    first = 0
    while first < n:
        count = next((count for count in counts if count >= n - first), counts[-1])
        row = list(range(first, min(first + count, n)))
        yield row + [first] * (count - len(row))
        first += count


def _in_calls(call: Callable[[list[int]], Tensor], rows: list[int], count: int) -> tuple[Tensor, float]:
    started = time.perf_counter()
    parts = []
    for first in range(0, len(rows), count):
        here = rows[first : first + count]
        parts.append(call(here + here[:1] * (count - len(here)))[: len(here)])
    return torch.cat(parts), time.perf_counter() - started
