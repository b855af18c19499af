"""The ledger: proof that an epoch used every row exactly once, for a few bytes and one small all-reduce.

Each row has a mixed 64-bit id (SplitMix64). Whoever uses rows adds their ids modulo 2^64; the sum over all ranks must be that of
all rows. Sums find what counts miss: a row left out and another seen twice. They do not cancel in pairs as an xor does:
by chance a wrong set of rows is taken for the right one once in 2^64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hpcml.errors import DataError

MASK = (1 << 64) - 1
BLOCK = 1 << 16


def mix(rows: np.ndarray) -> np.ndarray:
    """Return the id of each row: SplitMix64 of its number, (n,) uint64."""
    z = rows.astype(np.uint64)
    z += np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z


@cache
def expected(start: int, stop: int) -> int:
    """Return the sum of the ids of rows start to stop - 1 modulo 2^64; about 4 ns a row, once."""
    total = 0
    for first in range(start, stop, BLOCK):
        total += int(mix(np.arange(first, min(first + BLOCK, stop))).sum())
    return total & MASK


class Ledger:
    """What this process used of the current epoch.

    Args:
        start: the rows whose expected sum this process computes, so that all share the work ...
        stop: ... and the row after them.
    """

    NAMES = ("used", "used_rows", "left_out", "left_out_rows", "late", "late_rows", "lost", "lost_rows")

    def __init__(self, start: int, stop: int) -> None:
        self._span = start, stop
        self._sums = dict.fromkeys(self.NAMES, 0)

    def add(self, ids: int, rows: int, left_out: tuple[int, int] = (0, 0), late: tuple[int, int] = (0, 0)) -> None:
        """Add rows that were used, (ids, rows) that a quarantine left out, and those of workers that came too late to count."""
        sums = self._sums
        sums["used"] = (sums["used"] + ids) & MASK
        sums["used_rows"] += rows
        if left_out[1]:
            sums["left_out"] = (sums["left_out"] + left_out[0]) & MASK
            sums["left_out_rows"] += left_out[1]
        if late[1]:
            sums["late"] = (sums["late"] + late[0]) & MASK
            sums["late_rows"] += late[1]

    def lose(self, ids: int, rows: int) -> None:
        """Add rows that were dealt to workers that are gone."""
        self._sums["lost"] = (self._sums["lost"] + ids) & MASK
        self._sums["lost_rows"] += rows

    def vector(self) -> np.ndarray:
        """Return (9,) uint64 whose sum over all processes `verdict` judges."""
        return np.array([*self._sums.values(), expected(*self._span)], np.uint64)

    def reset(self) -> None:
        """Begin an epoch."""
        self._sums = dict.fromkeys(self.NAMES, 0)

    def restore(self, saved: dict[str, str] | None) -> None:
        """Begin in the middle of an epoch, from what `to_plain` said of all processes; one process alone does this."""
        self.reset()
        if saved is not None:
            self.take(saved)

    def take(self, saved: dict[str, str]) -> None:
        """Add what `to_plain` said of processes that are no more."""
        for name in self.NAMES:
            self._sums[name] = (self._sums[name] + int(saved.get(name, "0"), 16)) & MASK

    def plain(self) -> dict[str, str]:
        """Return this process's own sums as `restore` takes them."""
        return to_plain(self.vector())

    def share(self, start: int, stop: int) -> None:
        """Compute the expected sum of these rows from now on: the processes are others."""
        self._span = start, stop


def to_plain(total: np.ndarray) -> dict[str, str]:
    """Return the sums over all processes as text for a checkpoint; hexadecimal, since JSON readers cut 64-bit numbers."""
    return {name: f"{int(value):x}" for name, value in zip(Ledger.NAMES, total[:-1], strict=True)}


def verdict(total: np.ndarray, rows: int, where: str) -> dict[str, Any]:
    """Return what an epoch used, or raise if that was not every row exactly once.

    Args:
        total: (9,) uint64, the sum of all processes' vectors.
        rows: of the data set.
        where: the epoch in words.

    Raises:
        DataError: for rows skipped or seen twice, naming the epoch and both numbers.
    """
    used, used_rows, left, left_rows, late, late_rows, lost, lost_rows, whole = map(int, total)
    ids, known = (used + left + late + lost) & MASK, used_rows + left_rows + late_rows + lost_rows
    if ids != whole or known != rows:
        others = {"left out": left_rows, "too late": late_rows, "lost": lost_rows}
        parts = [f"{count:,} {name}" for name, count in others.items() if count]
        what = f"{' and '.join([f'{used_rows:,} rows used', *parts])}, expected {rows:,}"
        if known == rows:
            what = f"{rows:,} rows used, as expected, but some were skipped and others used twice"
        raise DataError(
            f"{where}: the ledger does not add up: {what} (sum of ids {ids:016x}, expected {whole:016x});"
            " the weights of this epoch cannot be trusted, go back to the checkpoint before it and report this"
        )
    dropped = {name: count for name, count in (("rows_too_late", late_rows), ("rows_lost", lost_rows)) if count}
    return {"rows_used": used_rows, "rows_left_out": left_rows, **dropped, "ids": f"{used:016x}"}
