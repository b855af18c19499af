"""Windows in memory: one worker's rows read in whole runs, gathered into batches in the sampler's order.

A worker has two slabs. While batches are gathered out of one, the other fills with the next window at the same pace,
so that no step pays for a whole window. Cost: 2 * window * block rows for each worker a rank hosts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.arrays.memory import aligned
from hpcml.data.dataset import ShardedDataset
from hpcml.data.sampler import Sampler, Window
from hpcml.errors import DataError, ShardError

PIECE_BYTES = 1 << 20
"""A run longer than this is read in pieces: then filling ahead is even, and stopping waits for one piece at most."""

NAMED_ROWS = 3
"""How many bad rows an error names; it counts the others."""


class Stopped(Exception):
    """The consumer wants no more batches: the reading thread unwinds, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Host memory for the rows of one worker at one step: x (count, *row), y (count, *row) or None, rows (count,) int64."""

    x: np.ndarray
    y: np.ndarray | None
    rows: np.ndarray

    @classmethod
    def empty(cls, dataset: ShardedDataset, count: int, real: np.dtype[Any]) -> Rows:
        """Return aligned memory for `count` rows of a data set, floating fields in dtype `real`."""
        y = None if dataset.y is None else aligned((count, *dataset.y.shape), dataset.y.memory_dtype(real))
        return cls(aligned((count, *dataset.x.shape), real), y, np.zeros(count, np.int64))

    def part(self, start: int, stop: int) -> Rows:
        """Return a view of some of the rows."""
        return Rows(self.x[start:stop], None if self.y is None else self.y[start:stop], self.rows[start:stop])

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.x.nbytes + (0 if self.y is None else self.y.nbytes) + self.rows.nbytes


class Slab:
    """The memory of one window: filled piece by piece in file order, gathered from in the order of use."""

    def __init__(self, dataset: ShardedDataset, rows: Rows) -> None:
        self._dataset, self._memory = dataset, rows
        self._row_bytes = max(1, rows.x[:1].nbytes)
        self.window: Window | None = None
        self.key: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Return the rows of the window that the slab holds or is being filled with."""
        return 0 if self.window is None else len(self.window.rows)

    def begin(self, key: tuple[int, int], window: Window) -> None:
        """Forget what the slab held; (epoch, k) and the window say what comes."""
        size = max(1, PIECE_BYTES // self._row_bytes)
        # Pieces are cut from the start of a run, whoever reads: a failure then covers the same rows in every run.
        self._pieces = [(a, min(a + size, stop)) for start, stop in window.runs for a in range(start, stop, size)]
        self.key, self.window = key, window
        self._next = self._filled = 0
        self._failures: list[tuple[int, int, ShardError]] = []

    def fill(self, target: int, stop: threading.Event) -> None:
        """Read pieces until at least `target` rows are there; a piece that cannot be read is remembered, not raised."""
        while self._filled < min(target, len(self)):
            if stop.is_set():
                raise Stopped
            start, end = self._pieces[self._next]
            first, last = self._filled, self._filled + end - start
            part = self._memory.part(first, last)
            try:
                self._dataset.read(start, end, part.x, part.y)
            except ShardError as error:
                self._failures.append((first, last, error))
            self._next, self._filled = self._next + 1, last

    def gather(self, start: int, stop: int, out: Rows) -> ShardError | None:
        """Overwrite `out` with the rows at positions start to stop-1 of the window; return the failure that hit one of them."""
        assert self.window is not None, "begin comes before gather"
        order = self.window.order[start:stop]
        # Positions are right by construction; mode "clip" lets numpy write into out without a second buffer.
        np.take(self._memory.x, order, axis=0, out=out.x, mode="clip")
        if self._memory.y is not None:
            np.take(self._memory.y, order, axis=0, out=out.y, mode="clip")
        out.rows[:] = self.window.rows[start:stop]
        return next((error for first, last, error in self._failures if ((order >= first) & (order < last)).any()), None)


class WorkerReader:
    """The batches of one virtual worker, step after step, from two slabs that take turns."""

    def __init__(self, dataset: ShardedDataset, sampler: Sampler, worker: int, real: np.dtype[Any]) -> None:
        self.worker = worker
        self._dataset, self._sampler = dataset, sampler
        size = min(sampler.window_rows, sampler.total(worker))
        memory = [Rows.empty(dataset, size, real) for _ in range(2)]
        self.nbytes = sum(rows.nbytes for rows in memory)
        self._now, self._ahead = (Slab(dataset, rows) for rows in memory)

    def forget(self) -> None:
        """Drop what the slabs hold, so that a file that changed meanwhile is read, and refused, again."""
        self._now.key = self._ahead.key = None

    def fill(self, epoch: int, step: int, out: Rows, stop: threading.Event) -> DataError | None:
        """Overwrite `out` (count rows) with the worker's rows of one step; return what is wrong with them, or None."""
        start, end = self._sampler.positions(step, self.worker)
        size, failure = self._sampler.window_rows, None
        for k in range(start // size, -(-end // size) if end > start else 0):
            first, last = max(start - k * size, 0), min(end - k * size, size)
            slab = self._window(epoch, k, stop)
            offset = k * size + first - start
            failure = slab.gather(first, last, out.part(offset, offset + last - first)) or failure
            self._fill_ahead(epoch, k, last, stop)
        where = f"epoch {epoch}, step {step}, worker {self.worker}"
        if failure is not None:
            error: DataError = ShardError(f"{where}: {failure}")
            error.__cause__ = failure
            return error
        return self._not_finite(where, out)

    def _window(self, epoch: int, k: int, stop: threading.Event) -> Slab:
        """Return the slab that holds window k, whole."""
        if self._now.key != (epoch, k):
            self._now, self._ahead = self._ahead, self._now
        if self._now.key != (epoch, k):
            self._now.begin((epoch, k), self._sampler.window(epoch, self.worker, k))
        self._now.fill(len(self._now), stop)
        return self._now

    def _fill_ahead(self, epoch: int, k: int, used: int, stop: threading.Event) -> None:
        """Fill as much of window k + 1 as has been used of window k."""
        if k + 1 >= self._sampler.windows(self.worker):
            return
        if self._ahead.key != (epoch, k + 1):
            self._ahead.begin((epoch, k + 1), self._sampler.window(epoch, self.worker, k + 1))
        self._ahead.fill(-(-len(self._ahead) * used // len(self._now)), stop)

    def _not_finite(self, where: str, out: Rows) -> DataError | None:
        """Return an error that names the first rows with NaN or infinity, or None."""
        for field, values in ((self._dataset.x, out.x), (self._dataset.y, out.y)):
            if field is None or values is None or np.dtype(field.dtype).kind != "f" or _all_finite(values):
                continue
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            named = [self._dataset.locate(row) for row in np.sort(out.rows[bad])[:NAMED_ROWS].tolist()]
            places = ", ".join(f"{path} row {row}" for path, row in named)
            more = f" and {len(bad) - len(named)} more" if len(bad) > len(named) else ""
            return DataError(
                f"{where}: field {field.name!r} has NaN or infinity in {len(bad)} of {len(values)} rows: {places}{more};"
                f" correct them or leave them out (numbers are held as {values.dtype})"
            )
        return None


def _all_finite(values: np.ndarray) -> bool:
    """Return whether no value is NaN or infinite; two passes without a temporary array, unlike isfinite."""
    if not values.size:
        return True
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(values.min()) and np.isfinite(values.max()))
