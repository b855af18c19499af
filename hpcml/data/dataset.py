"""Many shards as one row space: row 0 is the first row of the first file, and no row is anywhere twice."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType

import numpy as np

from hpcml.data.handles import Handles
from hpcml.data.index import Field, Index
from hpcml.data.shards import find_shards, index_shards
from hpcml.errors import DataError, ShapeError

__all__ = ["ShardedDataset", "open_shards"]


class ShardedDataset:
    """The rows of many HDF5 files, read in contiguous runs into arrays of the caller.

    Files are opened when first read, by each process for itself. Threads take turns.

    Args:
        index: what `index_shards` found, here or on the rank that broadcast it.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._edges = [0, *accumulate(index.shard_rows)]
        self._handles = Handles()

    @property
    def rows(self) -> int:
        """Rows of all shards together."""
        return self.index.rows

    @property
    def shard_rows(self) -> tuple[int, ...]:
        """Rows of each shard, in order: what a `Sampler` asks for."""
        return self.index.shard_rows

    @property
    def x(self) -> Field:
        """The features' name, row shape and dtype in the files."""
        return self.index.x

    @property
    def y(self) -> Field | None:
        """The target's name, row shape and dtype in the files, or None."""
        return self.index.y

    @property
    def open_files(self) -> int:
        """Files that are open at this moment."""
        return len(self._handles)

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the file of a row and its number in that file.

        Raises:
            DataError: if row is outside 0..rows-1.
        """
        if not 0 <= row < self.rows:
            raise DataError(f"row {row} does not exist, the data set has rows 0 to {self.rows - 1}")
        shard = self._shard(row)
        return Path(self.index.shards[shard].path), row - self._edges[shard]

    def read(self, start: int, stop: int, x_out: np.ndarray, y_out: np.ndarray | None = None) -> None:
        """Overwrite the caller's arrays with rows start to stop-1, which may span files.

        Args:
            start: 0 <= start <= stop <= rows.
            stop: the row after the last one.
            x_out: (stop - start, *x.shape), C-contiguous; values are converted to its dtype.
            y_out: (stop - start, *y.shape), C-contiguous, or None to leave the target unread.

        Raises:
            DataError: if the rows do not exist.
            ShapeError: if an array has another shape, is not contiguous, or is of whole numbers where the field is not.
            ShardError: for a file that changed since the index, a block that cannot be read, a handle used across a fork.
        """
        self._check_read(start, stop, x_out, y_out)
        self._handles.check_process()
        with self._handles.turn:
            shard = self._shard(start)
            while start < stop:
                first, last = self._edges[shard], self._edges[shard + 1]
                n = min(stop, last) - start
                self._handles.read(self.index.shards[shard], self.x, start - first, x_out[:n])
                x_out = x_out[n:]
                if self.y is not None and y_out is not None:
                    self._handles.read(self.index.shards[shard], self.y, start - first, y_out[:n])
                    y_out = y_out[n:]
                start, shard = start + n, shard + 1

    def close(self) -> None:
        """Close every open file; a later read opens what it needs again.

        Raises:
            ShardError: for handles that were opened before a fork.
        """
        self._handles.check_process()
        with self._handles.turn:
            self._handles.close()

    def __enter__(self) -> ShardedDataset:
        """Return the data set itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every open file."""
        self.close()

    def _shard(self, row: int) -> int:
        """Return the position of the shard that holds a row."""
        return bisect_right(self._edges, row) - 1

    def _check_read(self, start: int, stop: int, x_out: np.ndarray, y_out: np.ndarray | None) -> None:
        """Refuse rows that do not exist and arrays that do not fit."""
        if not 0 <= start <= stop <= self.rows:
            raise DataError(f"rows {start}:{stop} do not exist, the data set has rows 0:{self.rows}")
        for field, out in ((self.x, x_out), (self.y, y_out)):
            if out is None:
                continue
            if field is None:
                raise ShapeError("an array was given for the target, but the data set was opened with target=None")
            shape = (stop - start, *field.shape)
            if out.shape != shape or not out.flags.c_contiguous:
                raise ShapeError(f"field {field.name!r}: expected a contiguous array of shape {shape}, found {out.shape}")
            if not np.can_cast(field.dtype, out.dtype, "same_kind"):
                raise ShapeError(f"field {field.name!r} is {field.dtype}, an array of {out.dtype} would lose its values; give float32")


def open_shards(pattern: str | Path | Sequence[str | Path], features: str = "x", target: str | None = "y") -> ShardedDataset:
    """Find the shards of a pattern, check them all, and return them as one data set.

    Args:
        pattern: a path, a glob, or a sequence of them; see `find_shards`.
        features: the field that becomes x.
        target: the field that becomes y, or None where rows have none.

    Raises:
        ShardError: for anything that `find_shards` or `index_shards` refuses.
    """
    return ShardedDataset(index_shards(find_shards(pattern), features, target))
