"""Rows in host memory, on their way to a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.arrays.memory import aligned
from hpcml.data.dataset import ShardedDataset
from hpcml.errors import DataError

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
"""(shape, dtype) -> zeroed memory on a cache line."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Host memory for rows: x (count, *row), y (count, *row) or None, weights (count,) or None, rows (count,) int64."""

    x: np.ndarray
    y: np.ndarray | None
    weights: np.ndarray | None
    rows: np.ndarray

    @classmethod
    def empty(cls, dataset: ShardedDataset, count: int, real: np.dtype[Any], allocate: Allocate = aligned) -> Rows:
        """Return memory for `count` rows of a data set, floating fields in dtype `real`."""
        y = None if dataset.index.y is None else allocate((count, *dataset.index.y.shape), dataset.index.y.memory_dtype(real))
        weights = None if dataset.weights is None else allocate((count,), real)
        return cls(allocate((count, *dataset.index.x.shape), real), y, weights, np.zeros(count, np.int64))

    def part(self, start: int, stop: int) -> Rows:
        """Return a view of some of the rows."""
        y, weights = (None if a is None else a[start:stop] for a in (self.y, self.weights))
        return Rows(self.x[start:stop], y, weights, self.rows[start:stop])

    def keep(self, good: np.ndarray) -> Rows:
        """Move the rows where `good` (count,) is true to the front, overwriting the others, and return a view of them."""
        n = int(good.sum())
        for array in (self.x, self.y, self.weights, self.rows):
            if array is not None:
                array[:n] = array[good]
        return self.part(0, n)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(array.nbytes for array in (self.x, self.y, self.weights, self.rows) if array is not None)


@dataclass(frozen=True, slots=True)
class Filled:
    """A worker's rows of one step, ready: the sum of their ids, what is wrong with them, and (ids, rows) that were left out."""

    rows: Rows
    ids: int
    error: DataError | None
    left_out: tuple[int, int] = (0, 0)


def all_finite(values: np.ndarray) -> bool:
    """Return whether no value is NaN or infinite: one pass by the sum of squares, more only where that overflows."""
    flat = values.reshape(-1)
    if not flat.size:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(flat @ flat) or (np.isfinite(flat.min()) and np.isfinite(flat.max())))
