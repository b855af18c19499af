"""Three ways to bring rows of a field into memory; `storage` says which one a file allows.

Every road reads runs of rows, one after the other, and lays each row where the caller wants it: the i-th becomes `landing[place[i]]`.
Several runs at once cost hardly more than one beside the bytes themselves.
Positioned reads go straight there where the dtype is the file's; otherwise the rows pass through a block of this thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hpcml.data.conventions import is_fill
from hpcml.data.index import Field
from hpcml.data.openfile import OpenFile
from hpcml.data.storage import CONTIGUOUS, Stored

SCATTER_BYTES = 1024
"""Rows at least this long are read straight to their places; below, a block and numpy's assignment cost less."""

STAGING_BYTES = 1 << 20
"""Rows that need another dtype pass through a block of about this size, which stays in the cache of one core."""


COLUMN_ROW_BYTES, COLUMN_BYTES = 16, 1 << 17
"""A field of such short rows (a target, a weight) that is no longer than this in its file is kept while the file is open, and
each of its rows is read once: the rows of one block are a read of a few hundred bytes each."""


Runs = Sequence[tuple[int, int]]
"""Consecutive rows: (first, the one after the last) of each run."""


class Landing:
    """An array whose rows are filled out of order, with a view of each row made once.

    Args:
        array: (n, *row), C-contiguous.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self._rows: list[memoryview] | None = None

    def stretch(self, place: slice) -> memoryview:
        """Return the bytes of rows that follow one another."""
        return self.array[place].reshape(-1).view(np.uint8).data

    def rows(self, place: np.ndarray) -> list[memoryview]:
        """Return the bytes of each of some rows."""
        rows = self._rows
        if rows is None:
            # A memoryview is handed to the system in a fifth of the time of an array.
            flat = self.array.reshape(-1).view(np.uint8).data
            size = flat.nbytes // len(self.array)
            rows = self._rows = [flat[i * size : (i + 1) * size] for i in range(len(self.array))]
        return [rows[i] for i in place.tolist()]


class Scratch:
    """Memory by name that grows to the largest size asked for and stays; one thread uses it at a time."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def __call__(self, name: str, nbytes: int) -> np.ndarray:
        """Return (nbytes,) uint8; its contents are whatever was there."""
        held = self._held.get(name)
        if held is None or len(held) < nbytes:
            held = self._held[name] = np.empty(nbytes, np.uint8)
        return held[:nbytes]


Count = Callable[[int], None]


class Contiguous:
    """Rows one after the other in the file.

    Args:
        file: the open file.
        field: name, row shape, dtype.
        stored: where the rows begin, and how numbers become values.
        count: called with the bytes of each read.
    """

    def __init__(self, file: OpenFile, field: Field, stored: Stored, count: Count) -> None:
        self.file, self.shape, self.stored, self.count = file, field.shape, stored, count
        self.dtype = np.dtype(stored.dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        is_short = stored.road == CONTIGUOUS and self.row_bytes <= COLUMN_ROW_BYTES and stored.nbytes <= COLUMN_BYTES
        self._column = Column() if is_short else None

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing.

        Raises:
            OSError: for a read that fails.
            ValueError: for a file that ends too early.
        """
        if self._column is not None:
            deliver(self._column.rows(self, runs), landing.array, place, self.stored)
            return
        begin, size = self.stored.offset, self.row_bytes
        self.read_at([(begin + start * size, stop - start) for start, stop in runs], landing, place, scratch)

    def announce(self, start: int, count: int) -> None:
        """Tell the system that rows will be read soon."""
        if self._column is None:
            self.file.announce(self.stored.offset + start * self.row_bytes, count * self.row_bytes)

    def read_at(self, stretches: Sequence[tuple[int, int]], landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read rows from some bytes of the file on: (byte, rows) of each stretch."""
        size, at = self.row_bytes, 0
        self.count(sum(count for _, count in stretches) * size)
        plain = landing.array.dtype == self.dtype and self.stored.is_plain and landing.array.flags.c_contiguous
        straight = plain and (isinstance(place, slice) or size >= SCATTER_BYTES)
        views = landing.rows(place) if straight and isinstance(place, np.ndarray) else []
        for offset, count in stretches:
            part = within(place, at, at + count)
            if views:
                self.file.read(views[at : at + count], offset, count * size)
            elif straight and isinstance(part, slice):
                self.file.read([landing.stretch(part)], offset, count * size)
            else:
                self._read_by_blocks(offset, count, landing, part, scratch)
            at += count

    def _read_by_blocks(self, offset: int, count: int, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read `count` rows that need another dtype, or are too short to be read each to its place."""
        step = max(1, STAGING_BYTES // self.row_bytes)
        for first in range(0, count, step):
            n = min(step, count - first)
            block = scratch("block", n * self.row_bytes)
            self.file.read([block], offset + first * self.row_bytes, block.nbytes)
            deliver(block.view(self.dtype).reshape(n, *self.shape), landing.array, within(place, first, first + n), self.stored)


class Column:
    """A short field whose rows stay in memory, each taken from the file when it is first wanted.

    So the ranks that share a set read its short fields once together, not once each.
    It does not hold its road: in a circle of two, files that were let go would stay open until Python looks for circles.
    """

    def __init__(self) -> None:
        self._held: tuple[np.ndarray, np.ndarray | None] | None = None

    def rows(self, road: Contiguous, runs: Runs) -> np.ndarray:
        """Return (count, *row) of all runs in the dtype of the file, whose field's own road brings them.

        Raises:
            OSError: for a read that fails.
            ValueError: for a file that ends too early.
        """
        # Values and their flags are one pair: threads that begin at once make two, and none marks the rows of another's.
        values, there = self._held or self._begun(road)
        if there is not None:
            for start, stop in runs:
                if not there[start:stop].all():
                    road.count((stop - start) * road.row_bytes)
                    road.file.read([values[start:stop]], road.stored.offset + start * road.row_bytes, (stop - start) * road.row_bytes)
                    there[start:stop] = True
            if there.all():
                self._held = values, None
        found = [values[start:stop] for start, stop in runs]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _begun(self, road: Contiguous) -> tuple[np.ndarray, np.ndarray | None]:
        """Return memory for all values, (rows, *row), and for whether each row is there."""
        rows = road.stored.nbytes // road.row_bytes
        # One hint brings the whole field from the disk: small reads then find it in the system's memory.
        road.file.announce(road.stored.offset, road.stored.nbytes)
        self._held = np.empty((rows, *road.shape), road.dtype), np.zeros(rows, np.bool_)
        return self._held


class Library:
    """Rows through h5py's own pipeline, one thread of the process at a time.

    Args:
        dataset: the open h5py data set.
        file: its h5py file, which closes all its data sets when nobody holds it.
        stored: how numbers become values.
        turn: taken around every call.
    """

    def __init__(self, dataset: Any, file: Any, stored: Stored, count: Count, turn: threading.Lock) -> None:
        self.file, self.dataset, self.stored, self.count, self.turn = file, dataset, stored, count, turn
        self.dtype = dataset.dtype.newbyteorder("=")
        self.row_bytes = int(np.prod(dataset.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def announce(self, start: int, count: int) -> None:
        """Do nothing: only HDF5 knows which bytes it will read."""

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing.

        Raises:
            OSError: for what HDF5 cannot read or decode.
        """
        step = max(1, STAGING_BYTES // self.row_bytes)
        for start, stop, part in with_places(runs, place):
            self.count((stop - start) * self.row_bytes)
            for first in range(start, stop, step):
                n = min(step, stop - first)
                block = scratch("block", n * self.row_bytes).view(self.dtype).reshape(n, *self.dataset.shape[1:])
                with self.turn:
                    _read_rows(self.dataset, first, block)
                deliver(block, landing.array, within(part, first - start, first - start + n), self.stored)


def with_places(runs: Runs, place: slice | np.ndarray) -> Iterator[tuple[int, int, slice | np.ndarray]]:
    """Yield (first row, the one after the last, their places) of each run."""
    at = 0
    for start, stop in runs:
        yield start, stop, within(place, at, at + stop - start)
        at += stop - start


def within(place: slice | np.ndarray, first: int, last: int) -> slice | np.ndarray:
    """Return the places of some of the rows."""
    return slice(place.start + first, place.start + last) if isinstance(place, slice) else place[first:last]


def deliver(block: np.ndarray, out: np.ndarray, place: slice | np.ndarray, stored: Stored) -> None:
    """Lay rows (n, *row) at their places in `out` (m, *row), or flat in (m, columns), as values of its dtype."""
    if block.dtype == np.bool_:
        block = block.view(np.uint8) != 0  # any byte but 0 is true, as in HDF5
    if not stored.is_plain:
        block = _values(block, stored)
    if block.dtype == out.dtype:
        out[place] = block.reshape(len(block), *out.shape[1:])
        return
    # A float64 too large for float32 becomes infinite here and is reported by the loader with its row.
    with np.errstate(over="ignore", invalid="ignore"):
        out[place] = block.reshape(len(block), *out.shape[1:])


def _values(block: np.ndarray, stored: Stored) -> np.ndarray:
    """Return scaled values, float64, fill values replaced."""
    values = block * np.float64(stored.scale) + stored.shift
    if stored.fills or stored.valid:
        values[is_fill(block, stored.fills, stored.valid)] = np.nan if stored.instead is None else stored.instead
    return values


def _read_rows(source: Any, start: int, out: np.ndarray) -> None:
    """Overwrite `out` with consecutive rows: read_direct without its parsing of selections, which costs more than a block."""
    from h5py import h5s

    space = source.id.get_space()
    space.select_hyperslab((start, *(0,) * (out.ndim - 1)), out.shape)
    source.id.read(h5s.create_simple(out.shape), space, out)
