"""The road of rows of variable length: their values come by a road of their own, and are spread over rows of equal length.

Cost: the offsets of a file are kept while it is open, 8 bytes a row; the rows of a block pass through memory of about a megabyte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hpcml.data.index import Field
from hpcml.data.roads import STAGING_BYTES, Landing, Runs, Scratch, deliver, with_places, within
from hpcml.data.storage import Stored, Variable


class Inner(Protocol):
    """A road of rows of one length."""

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places."""

    def announce(self, start: int, count: int) -> None:
        """Tell the system that rows will be read soon."""


class Spread:
    """Rows made of offsets and values.

    Args:
        field: name, row shape, dtype.
        stored: how numbers become values.
        variable: where the rows are, and what they become.
        rows: of the field in this file.
        inner: name of a data set -> its road; those without an entry are left out.
    """

    def __init__(self, field: Field, stored: Stored, variable: Variable, rows: int, inner: Mapping[str, Inner]) -> None:
        self.field, self.stored, self.variable, self.rows, self.inner = field, stored, variable, rows, inner
        self._offsets: np.ndarray | None = None

    def announce(self, start: int, count: int) -> None:
        """Tell the system that the values of rows will be read soon."""
        offsets = self.offsets()
        first, last = int(offsets[start]), int(offsets[start + count])
        for name, road in self.inner.items():
            if name != self.variable.offsets and last > first:
                road.announce(first, last - first)

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing.

        Raises:
            OSError: for a read that fails.
            ValueError: for offsets or columns that cannot be.
        """
        for start, stop, part in with_places(runs, place):
            self._read_run(start, stop - start, landing, part, scratch)

    def _read_run(self, start: int, count: int, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read consecutive rows."""
        offsets = self.offsets()[start : start + count + 1]
        lengths = np.diff(offsets)
        if self.variable.show != "values":
            deliver(self._shown(lengths), landing.array, place, self.stored)
            return
        first, total = int(offsets[0]), int(offsets[-1] - offsets[0])
        entry = self.field.shape[1:]
        dtype = landing.array.dtype
        if dtype.kind in "iu" and not float(self.variable.pad).is_integer():
            raise ValueError(f"pad_with is {self.variable.pad}, which rows of whole numbers cannot hold")
        width = int(np.prod(entry, dtype=np.int64))
        values = scratch("entries", total * width * dtype.itemsize).view(dtype).reshape(total, *entry)
        columns = scratch("columns", total * 8).view(np.int64)
        if total:
            self.inner[self.variable.values].read([(first, first + total)], Landing(values), slice(0, total), scratch)
        if self.variable.indices and total:
            self.inner[self.variable.indices].read([(first, first + total)], Landing(columns), slice(0, total), scratch)
            self._check_columns(columns, start, offsets)
        else:
            np.subtract(np.arange(total), np.repeat(offsets[:-1] - first, lengths), out=columns)
        step = max(1, STAGING_BYTES // max(1, self.variable.columns * width * dtype.itemsize))
        for low in range(0, count, step):
            high = min(low + step, count)
            part = slice(int(offsets[low]) - first, int(offsets[high]) - first)
            block = scratch("spread", (high - low) * self.variable.columns * width * dtype.itemsize).view(dtype)
            block = block.reshape((high - low) * self.variable.columns, width)
            block[...] = self.variable.pad
            self._lay(block, lengths[low:high], columns[part], values[part].reshape(-1, width))
            deliver(block.reshape(high - low, -1), landing.array, within(place, low, high), self.stored)

    def offsets(self) -> np.ndarray:
        """Return where each row begins, and where the last one ends, (rows + 1,) int64: read once.

        Raises:
            ValueError: if they fall.
        """
        if self._offsets is None:
            offsets = np.empty(self.rows + 1, np.int64)
            self.inner[self.variable.offsets].read([(0, len(offsets))], Landing(offsets), slice(0, len(offsets)), Scratch())
            if offsets[0] != 0 or (np.diff(offsets) < 0).any():
                raise ValueError(f"{self.variable.offsets!r} does not rise from 0")
            self._offsets = offsets
        return self._offsets

    def _shown(self, lengths: np.ndarray) -> np.ndarray:
        """Return lengths (n,), or masks (n, columns), of rows, int64."""
        if self.variable.show == "length":
            return np.minimum(lengths, self.variable.columns) if self.variable.columns and not self.variable.indices else lengths
        return (np.arange(self.variable.columns) < lengths[:, None]).astype(np.int64)

    def _lay(self, block: np.ndarray, lengths: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Lay entries into rows (rows * columns, width) of padding; entries of one column of a sparse row are added, as scipy does."""
        width = self.variable.columns
        if self.variable.truncate and lengths.size and int(lengths.max()) > width:
            kept = columns < width
            row = np.repeat(np.arange(len(lengths)), lengths)[kept]
            block[row * width + columns[kept]] = values[kept]
            return
        where = np.repeat(np.arange(len(lengths)) * width, lengths) + columns
        if self.variable.indices and len(where) > 1 and not (np.diff(where) > 0).all() and len(np.unique(where)) < len(where):
            np.add.at(block, where, values)
            return
        block[where] = values

    def _check_columns(self, columns: np.ndarray, start: int, offsets: np.ndarray) -> None:
        """Refuse columns outside a row, which would otherwise land in another."""
        if columns.size and (columns.min() < 0 or columns.max() >= self.variable.columns):
            bad = int(np.flatnonzero((columns < 0) | (columns >= self.variable.columns))[0])
            row = start + int(np.searchsorted(offsets - offsets[0], bad, side="right")) - 1
            raise ValueError(f"row {row} has an entry in column {columns[bad]}, rows have columns 0 to {self.variable.columns - 1}")
