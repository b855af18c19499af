"""The road of raw chunks: found by address, read without HDF5, decoded outside its lock, each once an epoch."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from hpcml.data.codecs import Undo
from hpcml.data.roads import Contiguous, Landing, Runs, Scratch, deliver, with_places, within
from hpcml.data.tables import ChunkTable

KEPT_BYTES = 32 << 20
"""Decoded bands kept for rows that are wanted later: blocks cut by the end of a window or of a worker's share."""


class Bands:
    """Decoded bands of which some rows are still to come, for all files of a process, the oldest dropped first."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit, self.nbytes = limit, 0
        self._kept: OrderedDict[tuple[str, str, int], tuple[np.ndarray, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: tuple[str, str, int]) -> tuple[np.ndarray | None, int]:
        """Return and forget a band and how many of its rows are still to come; None where it is not kept."""
        with self._lock:
            held, left = self._kept.pop(key, (None, 0))
            self.nbytes -= 0 if held is None else held.nbytes
            return held, left

    def keep(self, key: tuple[str, str, int], band: np.ndarray, left: int) -> None:
        """Remember a band for as long as there is room."""
        with self._lock:
            self._kept[key] = band, left
            self.nbytes += band.nbytes
            while self.nbytes > self.limit:
                self.nbytes -= self._kept.popitem(last=False)[1][0].nbytes


class Chunked:
    """Rows in chunks, each found by its address and decoded by the calling thread.

    Chunks with the same rows are a band. A band of which only some rows were wanted is kept until the others are:
    then each chunk is decoded once an epoch, though blocks and chunks do not begin together.

    Args:
        plain: the road of bands that need no decoding.
        rows: rows of the field in this file.
        table: the addresses of the chunks.
        bands: where bands wait.
        name: of the field.
    """

    def __init__(self, plain: Contiguous, rows: int, table: ChunkTable, bands: Bands, name: str) -> None:
        self.plain, self.rows, self.table, self.bands, self.name = plain, rows, table, bands, name
        self.chunk = plain.stored.chunk
        nbytes = int(np.prod(self.chunk, dtype=np.int64)) * plain.dtype.itemsize
        self.undo = Undo(plain.stored.filters, plain.dtype.itemsize, nbytes)
        self.whole_rows = self.chunk[1:] == plain.shape

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing.

        Raises:
            OSError: for a read that fails.
            ValueError: for a chunk that does not decode; the message says its address.
        """
        size, stretches = self.chunk[0], list[tuple[int, int]]()
        for start, stop, part in with_places(runs, place):
            for band in range(start // size, -(-stop // size)):
                first, last = max(start, band * size), min(stop, (band + 1) * size)
                if self.whole_rows and not self.undo.filters:
                    stretches.append((int(self.table.offsets[band]) + (first - band * size) * self.plain.row_bytes, last - first))
                else:
                    at = within(part, first - start, last - start)
                    self._read_band(band, first - band * size, last - band * size, landing, at, scratch)
        if stretches:
            self.plain.read_at(stretches, landing, place, scratch)

    def announce(self, start: int, count: int) -> None:
        """Tell the system that the chunks of rows will be read soon: once for each stretch of the file without a gap."""
        per_band = int(np.prod(self.table.grid[1:], dtype=np.int64))
        first, last = start // self.chunk[0] * per_band, -(-(start + count) // self.chunk[0]) * per_band
        offsets, ends = self.table.offsets[first:last], self.table.offsets[first:last] + self.table.sizes[first:last]
        breaks = np.flatnonzero(offsets[1:] != ends[:-1]) + 1
        for chunks in np.split(np.arange(len(offsets)), breaks):
            self.plain.file.announce(int(offsets[chunks[0]]), int(ends[chunks[-1]] - offsets[chunks[0]]))

    def _read_band(self, band: int, first: int, last: int, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Decode a band, or take the one that was kept, and lay some of its rows out."""
        size = self.chunk[0]
        there = min(size, self.rows - band * size)
        key = self.plain.file.path, self.name, band
        held, left = self.bands.take(key)
        out = self._straight(landing, place) if held is None and (first, last) == (0, size) else None
        if out is not None:
            self._decode(band, out, scratch)
            return
        if held is None:
            held, left = self._decoded(band, size, last - first < there, scratch), there
        deliver(held[first:last], landing.array, place, self.plain.stored)
        if left > last - first:
            self.bands.keep(key, held, left - (last - first))

    def sample(self, row: int) -> np.ndarray:
        """Return the first row of the band of a row that is wanted soon, as it lies there, (1, *row); a band that is decoded is kept.

        Raises:
            OSError, ValueError: as `read` raises them.
        """
        size = self.chunk[0]
        band = row // size
        if self.whole_rows and not self.undo.filters:
            first = np.empty((1, *self.plain.shape), self.plain.dtype)
            self.plain.file.read([first], int(self.table.offsets[band]), first.nbytes)
            return first
        held = self._decoded(band, size, True, Scratch())
        self.bands.keep((self.plain.file.path, self.name, band), held, min(size, self.rows - band * size))
        return held[:1]

    def _straight(self, landing: Landing, place: slice | np.ndarray) -> np.ndarray | None:
        """Return the caller's own memory as bytes where a chunk can be decoded right into it."""
        same = landing.array.dtype == self.plain.dtype and self.plain.stored.is_plain and landing.array.flags.c_contiguous
        if not (same and self.whole_rows and isinstance(place, slice)):
            return None
        return landing.array[place].reshape(-1).view(np.uint8)

    def _decoded(self, band: int, size: int, own: bool, scratch: Scratch) -> np.ndarray:
        """Return the rows of a band: (chunk rows, *row), in own memory where they may be kept."""
        nbytes = size * self.plain.row_bytes
        memory = np.empty(nbytes, np.uint8) if own else scratch("band", nbytes)
        rows = memory.view(self.plain.dtype).reshape(size, *self.plain.shape)
        if self.whole_rows:
            self._decode(band, memory, scratch)
            return rows
        piece = scratch("piece", self.undo.nbytes)
        for grid, chunk in self.table.of_band(band):
            self._decode(chunk, piece, scratch)
            at = tuple(slice(g * c, min((g + 1) * c, n)) for g, c, n in zip(grid, self.chunk[1:], self.plain.shape, strict=True))
            inside = tuple(slice(0, s.stop - s.start) for s in at)
            rows[(slice(None), *at)] = piece.view(self.plain.dtype).reshape(self.chunk)[(slice(None), *inside)]
        return rows

    def _decode(self, chunk: int, out: np.ndarray, scratch: Scratch) -> None:
        """Overwrite (nbytes,) uint8 with a chunk."""
        offset, size, mask = (int(x[chunk]) for x in (self.table.offsets, self.table.sizes, self.table.masks))
        self.plain.count(size)
        try:
            raw = scratch("raw", size) if self.undo.filters else out
            self.plain.file.read([raw], offset, size)
            self.undo(raw, out, mask, scratch)
        except ValueError as error:
            raise ValueError(f"the chunk of {size} bytes at address {offset}: {error}") from error
