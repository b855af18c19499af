"""Decoded rows kept in memory, so that later epochs read no file.

The memory may be the process's own, or one block that all ranks of a node share: then each row is read once a node.
Within an epoch a row belongs to one rank. So ranks need to learn of each other's rows only where an epoch ends, and there a
fence orders the rows before the flags that announce them: right on every processor, without a lock in the reading threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from hpcml.arrays.memory import ALIGNMENT, aligned
from hpcml.data.dataset import Lanes, ShardedDataset
from hpcml.data.index import Field, Index
from hpcml.data.roads import Runs, with_places
from hpcml.data.transforms import Pipeline


class Memory(Protocol):
    """Where rows are kept: memory of this process, or memory that ranks share."""

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return zeroed memory; the n-th call gives the same memory on every rank that shares it."""

    def fence(self) -> None:
        """Return when every rank that shares the memory has called it and all see what was written before."""

    def close(self) -> None:
        """Give the memory back; every rank that shares it calls this."""


class OwnMemory:
    """Memory of this process alone."""

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return zeroed memory."""
        return aligned(shape, dtype)

    def fence(self) -> None:
        """Do nothing: there is nobody to wait for."""

    def close(self) -> None:
        """Do nothing: the memory goes with its last array."""


class CachedDataset(ShardedDataset):
    """A data set that keeps every row it has read, as it was before any transform.

    Args:
        index: what `index_shards` found.
        transforms: as `ShardedDataset` takes them.
        memory: where rows are kept; left out, in the process's own.
        dtype: float32 or float64, what the caller reads features in: wider numbers are kept rounded to it, narrower ones as they are.
    """

    def __init__(self, index: Index, transforms: Pipeline | None = None, memory: Memory | None = None, dtype: Any = np.float32) -> None:
        super().__init__(index, transforms)
        self._memory = memory or OwnMemory()
        kept = kept_fields(index, dtype)
        self._kept = {part.name: self._memory.allocate((index.rows, *part.shape), kind) for part, kind in kept}
        self._shared = self._memory.allocate((index.rows,), np.bool_)
        self._mine = np.zeros(index.rows, np.bool_)
        self._lanes = Lanes([(part, self._kept[part.name]) for part, _ in kept])

    @property
    def nbytes(self) -> int:
        """Bytes of the kept rows when all are there."""
        return sum(rows.nbytes for rows in self._kept.values())

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that rows will be read soon, unless they are kept."""
        for first, last in self._absent(start, stop):
            super().announce(first, last)

    def scatter(self, runs: Runs, lanes: Lanes, place: slice | np.ndarray) -> None:
        """Lay the rows of some runs each at its place, from memory where they are there, else from their files.

        Raises:
            ShardError: as `ShardedDataset.read` raises it; such rows are not kept.
        """
        if not self._kept:
            super().scatter(runs, lanes, place)
            return
        for start, stop, part in with_places(runs, place):
            for first, last in self._absent(start, stop):
                super().scatter([(first, last)], self._lanes, slice(first, last))
                self._mine[first:last] = True
            for field, landing in lanes.parts:
                rows = self._kept[field.name][start:stop]
                landing.array[part] = rows.reshape(len(rows), *landing.array.shape[1:])

    def end_epoch(self) -> None:
        """Let the ranks that share the memory see each other's rows; every one of them calls this between two epochs."""
        if self._shared.all():  # the same on all, since the last fence
            return
        self._memory.fence()  # all rows are laid, and nobody looks at a flag
        self._shared[self._mine] = True
        self._memory.fence()

    def close(self) -> None:
        """Close every file and give the memory back, with all ranks that share it; rows read later come from their files."""
        super().close()
        if self._kept:
            self._kept, self._lanes, self._shared = {}, Lanes([]), self._mine
            self._memory.close()

    def _absent(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of rows among start to stop-1 that are not there yet."""
        gone = start + np.flatnonzero(~(self._shared[start:stop] | self._mine[start:stop]))
        if gone.size:
            breaks = np.flatnonzero(np.diff(gone) != 1) + 1
            for run in np.split(gone, breaks):
                yield int(run[0]), int(run[-1]) + 1


def kept_fields(index: Index, dtype: Any) -> list[tuple[Field, np.dtype[Any]]]:
    """Return each data set whose rows are kept, with the dtype they are kept in: that of the file where it is the narrower one.

    Scaled numbers, and rows of variable length with their padding and sums, need not fit the dtype of the file.
    """
    real, found = np.dtype(dtype), dict[str, tuple[Field, np.dtype[Any]]]()
    for field, is_target in ((index.x, False), (index.weights, False), (index.y, True)):
        for part in () if field is None else field.stored:
            wanted, own = part.memory_dtype(real) if is_target else real, np.dtype(part.dtype)
            same = _as_in_file(index, part)
            kind = own if own.itemsize < wanted.itemsize and same else wanted
            held = found.get(part.name, (part, kind))[1]
            # A data set that is both feature and target is kept in the dtype that holds both.
            found[part.name] = part, held if held == kind else own if same else np.dtype(np.float64)
    return list(found.values())


def _as_in_file(index: Index, part: Field) -> bool:
    """Return whether the values of a data set are the very numbers of its files."""
    found = [dict(shard.fields).get(part.name) for shard in index.shards]
    return all(stored is None or (stored.is_plain and stored.variable is None) for stored in found)


def kept_bytes(index: Index, dtype: Any) -> int:
    """Return the bytes of memory that `CachedDataset` allocates, each array rounded up to whole cache lines."""
    sizes = [index.rows * int(np.prod(part.shape, dtype=np.int64)) * kind.itemsize for part, kind in kept_fields(index, dtype)]
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in [*sizes, index.rows])
