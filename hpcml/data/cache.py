"""Decoded rows kept in memory, so that later epochs read no file.

The memory may be the process's own, or one window that all ranks of a node share: then each row is read once a node. Whoever
finds a row absent reads it and lays it there; two ranks that do so at once write the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays.memory import aligned
from hpcml.data.dataset import Lanes, ShardedDataset
from hpcml.data.index import Index
from hpcml.data.transforms import Pipeline

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
"""(shape, dtype) -> zeroed memory, the same on every rank that shares it."""


class CachedDataset(ShardedDataset):
    """A data set that keeps every row it has read.

    Args:
        index: what `index_shards` found.
        transforms: as `ShardedDataset` takes them; rows are kept as they were before.
        allocate: where rows are kept: one call for each field and one for the flags, in this order on every rank.
        dtype: of kept features, float32 or float64.
    """

    def __init__(self, index: Index, transforms: Pipeline | None = None, allocate: Allocate = aligned, dtype: Any = np.float32) -> None:
        super().__init__(index, transforms)
        fields = {part.name: part for field in (index.x, index.y, index.weights) if field is not None for part in field.stored}
        self._kept = {
            name: allocate((index.rows, *part.shape), dtype if name in _names(index) else part.memory_dtype(dtype))
            for name, part in fields.items()
        }
        self._here = allocate((index.rows,), np.uint8)
        self._lanes = Lanes([(part, self._kept[name]) for name, part in fields.items()])

    @property
    def nbytes(self) -> int:
        """Bytes of the kept rows when all are there."""
        return self._here.nbytes + sum(rows.nbytes for rows in self._kept.values())

    def scatter(self, start: int, stop: int, lanes: Lanes, place: slice | np.ndarray) -> None:
        """Lay rows start to stop-1 each at its place, from memory where they are there, else from their files.

        Raises:
            ShardError: as `ShardedDataset.read` raises it; such rows are not kept.
        """
        if not self._here[start:stop].all():
            super().scatter(start, stop, self._lanes, slice(start, stop))
            self._here[start:stop] = 1  # after the rows: who sees the flag sees them
        for field, landing in lanes.parts:
            rows = self._kept[field.name][start:stop]
            landing.array[place] = rows.reshape(len(rows), *landing.array.shape[1:])


def _names(index: Index) -> set[str]:
    """Return the data sets that are held as features are: those of x, and the weights."""
    weights = () if index.weights is None else index.weights.stored
    return {part.name for part in (*index.x.stored, *weights)}
