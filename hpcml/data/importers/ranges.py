"""One large text file cut into ranges of bytes, so that many ranks scan it: the rows that they find are those of one pass.

Whether a place lies inside quotes depends on every quote before it. So the file is passed twice: first quotes and line ends of each
range are counted, as fast as memory is read; their sums tell of each cut its line number and whether it lies inside quotes.
A row belongs to the range in which it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcml.errors import DataError

RANGE_BYTES = 8 << 20
"""Bytes of a range: about a second of work for a scan, so that no rank waits long for the last; independent of the number of ranks."""

READ_BYTES = 1 << 22

Range = tuple[int, int, bool, int | None]
"""(byte offset, its line number, whether it lies inside quotes, offset of the end or None for that of the file)."""

WHOLE: Range = (0, 1, False, None)


def cut(spec: Mapping[str, Any], size: int) -> list[tuple[int, int | None]]:
    """Return (start, stop) of the ranges that a part is scanned in; one for what is small, or compressed, or no text.

    Every range but the first starts one byte before its cut: where that byte ends a line, a row may begin at the cut itself.
    """
    if spec["kind"] != "csv" or str(spec["path"]).endswith(".gz"):
        return [(0, None)]
    starts = [0, *(at - 1 for at in range(RANGE_BYTES, size, RANGE_BYTES))]
    return list(zip(starts, [*starts[1:], None], strict=True))


def count(path: str, start: int, stop: int | None) -> dict[str, int]:
    """Return how many lines end, and how many quotes stand, in a range of a file.

    Raises:
        DataError: if it cannot be read.
    """
    lines = quotes = 0
    try:
        with Path(path).open("rb", buffering=0) as file:
            file.seek(start)
            while text := file.read(READ_BYTES if stop is None else min(READ_BYTES, stop - file.tell())):
                lines += text.count(b"\n")
                quotes += text.count(b'"')
    except OSError as error:
        raise DataError(f"{path}: bytes {start} on cannot be read ({error.strerror})") from error
    return {"lines": lines, "quotes": quotes}


def place(cuts: Sequence[tuple[int, int | None]], counts: Sequence[Mapping[str, int]]) -> list[Range]:
    """Return the ranges with their line numbers, and whether they start inside quotes."""
    line, quotes, placed = 1, 0, []
    for (start, stop), found in zip(cuts, counts, strict=True):
        placed.append((start, line, bool(quotes % 2), stop))
        line, quotes = line + found["lines"], quotes + found["quotes"]
    return placed
