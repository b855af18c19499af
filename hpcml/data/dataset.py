"""Many shards as one row space: row 0 is the first row of the first file, and no row is anywhere twice."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType

import numpy as np

from hpcml.data.handles import Handles
from hpcml.data.index import Field, Index, Shard
from hpcml.data.roads import Landing, Runs, within
from hpcml.data.shards import find_shards, index_shards
from hpcml.data.transforms import Pipeline
from hpcml.data.variable import Packing
from hpcml.errors import DataError, ShapeError

__all__ = ["Lanes", "ShardedDataset", "open_shards"]


class Lanes:
    """Where the rows of some fields go: for each data set in the files, the memory of its columns.

    Args:
        pairs: (field, array) with arrays of shape (n, *field.shape); pairs with an array of None are left out.
    """

    def __init__(self, pairs: Sequence[tuple[Field | None, np.ndarray | None]]) -> None:
        self.parts: list[tuple[Field, Landing]] = []
        for field, array in pairs:
            if field is None or array is None:
                continue
            if not field.parts:
                self.parts.append((field, Landing(array)))
                continue
            first = 0
            for part in field.parts:
                last = first + int(np.prod(part.shape, dtype=np.int64))
                self.parts.append((part, Landing(array[:, first:last])))
                first = last


class ShardedDataset:
    """The rows of many HDF5 files, read into arrays of the caller, each field by the fastest road that its file allows.

    Files are opened when first read, by each process for itself. Any thread may read at any time.

    Args:
        index: what `index_shards` found, here or on the rank that broadcast it.
        transforms: what happens to rows after they are read; x and y are then the fields as they come out.

    Raises:
        ConfigError: for transforms that do not fit the rows.
    """

    def __init__(self, index: Index, transforms: Pipeline | None = None) -> None:
        self.index, self.transforms = index, transforms
        self._x, self._y = index.x, index.y
        if transforms is not None:
            x, y = transforms.shapes(index.x.shape, None if index.y is None else index.y.shape)
            self._x = dataclasses.replace(index.x, shape=x, parts=())
            if index.y is not None and y is not None and y != index.y.shape:
                self._y = Field(index.y.name, y, "float64")
        self._edges = [0, *accumulate(index.shard_rows)]
        self._grains: dict[int, int] = {}
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
        """The features' name, row shape and dtype: as in the files, or as transforms make them."""
        return self._x

    @property
    def y(self) -> Field | None:
        """The target's name, row shape and dtype, or None: as in the files, or as transforms make it."""
        return self._y

    @property
    def weights(self) -> Field | None:
        """The field of one weight a row, or None where all rows count alike."""
        return self.index.weights

    @property
    def open_files(self) -> int:
        """Files that are open at this moment."""
        return len(self._handles)

    @property
    def bytes_read(self) -> int:
        """Bytes taken from the files so far: encoded ones where chunks are decoded here, rows' own bytes elsewhere."""
        return self._handles.bytes_read

    @property
    def hints(self) -> int:
        """How often so far rows that were announced were not in the system's memory."""
        return self._handles.hints

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the file of a row and its number in that file.

        Raises:
            DataError: if row is outside 0..rows-1.
        """
        if not 0 <= row < self.rows:
            raise DataError(f"row {row} does not exist, the data set has rows 0 to {self.rows - 1}")
        shard = self.shard_of(row)
        return Path(self.index.shards[shard].path), row - self._edges[shard]

    def read(
        self, start: int, stop: int, x_out: np.ndarray, y_out: np.ndarray | None = None, weights_out: np.ndarray | None = None
    ) -> None:
        """Overwrite the caller's arrays with rows start to stop-1, which may span files.

        Args:
            start: 0 <= start <= stop <= rows.
            stop: the row after the last one.
            x_out: (stop - start, *x.shape), C-contiguous; values are converted to its dtype, transforms done as in evaluation.
            y_out: (stop - start, *y.shape), C-contiguous, or None to leave the target unread.
            weights_out: (stop - start,), C-contiguous, or None to leave the weights unread.

        Raises:
            DataError: if the rows do not exist.
            ShapeError: if an array has another shape, is not contiguous, or is of whole numbers where the field is not.
            ShardError: for a file that changed since the index, a block that cannot be read, a handle used across a fork.
        """
        pairs = [(self.x, x_out), (self.y, y_out), (self.weights, weights_out)]
        self._check_read(start, stop, pairs)
        if self.transforms is None:
            self.scatter([(start, stop)], Lanes(pairs), slice(0, stop - start))
            return
        n = stop - start
        x: np.ndarray = np.empty((n, *self.index.x.shape), x_out.dtype)
        file_y = self.index.y if y_out is not None else None
        y = None if file_y is None else np.empty((n, *file_y.shape), file_y.memory_dtype(x_out.dtype))
        self.scatter([(start, stop)], Lanes([(self.index.x, x), (file_y, y), (self.weights, weights_out)]), slice(0, n))
        x_out[:], y = self.transforms.apply(x, y)
        if y_out is not None and y is not None:
            y_out[:] = y

    def scatter(self, runs: Runs, lanes: Lanes, place: slice | np.ndarray) -> None:
        """Lay the rows of some runs, one after the other, each at its place. Nothing is checked but what the files say.

        Args:
            runs: (start, stop) with 0 <= start <= stop <= rows.
            lanes: memory for each field.
            place: a slice of as many places as rows, or (rows,) int64.

        Raises:
            ShardError: as `read` raises it.
        """
        self._handles.check_process()
        for shard, inside, first, last in self._parts(runs):
            part = within(place, first, last)
            for field, landing in lanes.parts:
                self._handles.read(shard, field, inside, landing, part)

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that features of rows start to stop-1 will be read soon, so that the disk works on many reads at once."""
        self._handles.check_process()
        for shard, ((row, end),), _, _ in self._parts([(start, stop)]):
            for field in self.index.x.stored:
                self._handles.announce(shard, field, row, end - row)

    def _parts(self, runs: Runs) -> Iterator[tuple[Shard, list[tuple[int, int]], int, int]]:
        """Yield (shard, runs inside it, first and last position among all rows) for each stretch of the rows in one shard."""
        number, inside, first, at = -1, list[tuple[int, int]](), 0, 0
        for start, stop in runs:
            while start < stop:
                here = self.shard_of(start)
                if here != number and inside:
                    yield self.index.shards[number], inside, first, at
                    inside, first = [], at
                number, edge, end = here, self._edges[here], min(stop, self._edges[here + 1])
                inside.append((start - edge, end - edge))
                at += end - start
                start = end
        if inside:
            yield self.index.shards[number], inside, first, at

    def pieces(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """Cut rows start to stop-1 into pieces of nearly equal length, about `rows`, that share no file, no chunk of x and no checksum."""
        while start < stop:
            shard = self.shard_of(start)
            first, last = self._edges[shard], min(stop, self._edges[shard + 1])
            grain, length = self.grain(shard), -(-(last - start) // -(-(last - start) // rows))
            while start < last:
                end = min(last, first + -(-(start - first + length) // grain) * grain)
                yield start, end
                start = end

    def grain(self, shard: int) -> int:
        """Return the rows of a shard that are decoded or checked together, over all fields of x; 1 where rows are read one by one."""
        grain = self._grains.get(shard)
        if grain is None:
            fields = dict(self.index.shards[shard].fields)
            known = [fields[part.name] for part in self.index.x.stored if part.name in fields]
            grain = self._grains[shard] = max((max(stored.chunk_rows, stored.block) for stored in known), default=1)
        return grain

    def end_epoch(self) -> None:
        """Be told by every rank, between two epochs, that all rows of one were read; kept rows are shared here, and files need nothing."""

    def refuse_changed(self) -> None:
        """Raise ShardError where a file that this process read since the last call is not the one that was indexed any more."""
        self._handles.refuse_changed()

    def close(self) -> None:
        """Close every open file; a later read opens what it needs again.

        Raises:
            ShardError: for handles that were opened before a fork.
        """
        self._handles.check_process()
        self._handles.close()

    def __enter__(self) -> ShardedDataset:
        """Return the data set itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every open file."""
        self.close()

    def shard_of(self, row: int) -> int:
        """Return the position, in the order of the index, of the shard that holds a row."""
        return bisect_right(self._edges, row) - 1

    def _check_read(self, start: int, stop: int, pairs: Sequence[tuple[Field | None, np.ndarray | None]]) -> None:
        """Refuse rows that do not exist and arrays that do not fit."""
        if not 0 <= start <= stop <= self.rows:
            raise DataError(f"rows {start}:{stop} do not exist, the data set has rows 0:{self.rows}")
        for (field, out), what in zip(pairs, ("features", "target", "weights"), strict=True):
            if out is None:
                continue
            if field is None:
                raise ShapeError(f"an array was given for the {what}, but the data set was opened with {what}=None")
            shape = (stop - start, *field.shape)
            if out.shape != shape or not out.flags.c_contiguous:
                raise ShapeError(f"field {field.name!r}: expected a contiguous array of shape {shape}, found {out.shape}")
            if not np.can_cast(field.dtype, out.dtype, "same_kind"):
                raise ShapeError(f"field {field.name!r} is {field.dtype}, an array of {out.dtype} would lose its values; give float32")


def open_shards(
    pattern: str | Path | Sequence[str | Path],
    features: str | Sequence[str] = "x",
    target: str | Sequence[str] | None = "y",
    weights: str | None = None,
    *,
    cf: bool | None = None,
    fill: float | None = None,
    packing: Packing | None = None,
) -> ShardedDataset:
    """Find the shards of a pattern, check them all, and return them as one data set.

    Args:
        pattern: a path, a glob, or a sequence of them; see `find_shards`.
        features: the field that becomes x; several are joined into one flat row, in the order given.
        target: the field (or fields) that becomes y, or None where rows have none.
        weights: the field with one number a row by which its loss counts, or None.
        cf: apply attributes such as scale_factor and _FillValue; False: numbers as they stand; None: what they would change is refused.
        fill: with cf, what fill values become; left out, they are NaN and refused with their row.
        packing: how rows of variable length are held and become rows of one length.

    Raises:
        ShardError: for anything that `find_shards` or `index_shards` refuses.
    """
    return ShardedDataset(index_shards(find_shards(pattern), features, target, weights, cf=cf, fill=fill, packing=packing))
