"""Writing one HDF5 file of rows, block by block, whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hpcml.data.layout import Layout
from hpcml.data.packed import create_packed, packed_bytes, packed_of, write_packed
from hpcml.errors import HpcmlError, ShardError

HEADER = 1 << 14
"""Bytes that HDF5's own notes may take beside the rows, generously."""


class RowWriter:
    """A file of named data sets with one row axis, which appears under its name only when it is complete.

    Args:
        path: the file to make or replace.
        rows: rows of every data set.
        fields: name -> (row shape, dtype).
        layout: how the fields lie in the file; contiguous when left out.
        decorate: called with the new h5py file once its data sets are there, to add attributes and what has no rows.
        entries: of all rows together, for each field of rows of variable length; these are written in order.

    Raises:
        ShardError: on entering or leaving, if the file cannot be written; nothing is left behind.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        fields: Mapping[str, tuple[tuple[int, ...], Any]],
        *,
        layout: Layout | None = None,
        decorate: Callable[[Any], None] | None = None,
        entries: Mapping[str, int] | None = None,
    ) -> None:
        self.path, self.rows, self.fields = path, rows, dict(fields)
        self._layout, self._decorate, self._entries = layout or Layout(), decorate, dict(entries or {})
        self._partial = path.with_name(f".partial-{path.name}")
        self._file: Any = None

    def __enter__(self) -> RowWriter:
        """Make the file under a hidden name, at its full size: a disk that fills up while HDF5 writes would crash this process."""
        import h5py

        sizes = [self._field_bytes(name) for name in self.fields]
        try:
            self._reserve(sum(sizes) + HEADER)
            with h5py.File(self._partial, "w", locking=False) as file:
                for name, (shape, dtype) in self.fields.items():
                    packed = packed_of(dtype)
                    if packed is not None:
                        create_packed(file, name, packed, self.rows, self._entries[name], self._layout, _allocated_at_once)
                        continue
                    options = self._layout.options(self.rows, shape, dtype)
                    if not options and not np.dtype(dtype).hasobject:
                        options = {"dcpl": _allocated_at_once()}
                    file.create_dataset(name, (self.rows, *shape), dtype, track_times=False, **options)
                if self._decorate is not None:
                    self._decorate(file)
            # Chunks get their places as they are written; a codec never makes one larger, and HDF5 gives back what is left over.
            self._reserve(self._partial.stat().st_size + (sum(sizes) + self._index_bytes() if self._layout.is_chunked else 0))
            self._file = h5py.File(self._partial, "r+", locking=False)
        except BaseException as error:
            self._discard()
            if isinstance(error, HpcmlError) or not isinstance(error, OSError | RuntimeError):
                raise
            why = getattr(error, "strerror", None) or str(error)
            raise ShardError(f"{self.path}: cannot be written ({why}); give a folder that exists and has room") from error
        return self

    def _field_bytes(self, name: str) -> int:
        """Return what the rows of a field take."""
        shape, dtype = self.fields[name]
        packed = packed_of(dtype)
        if packed is not None:
            return packed_bytes(packed, self.rows, self._entries[name])
        return self.rows * math.prod(shape) * int(np.dtype(dtype).itemsize)

    def _index_bytes(self) -> int:
        """Return what HDF5's indices of chunks take, generously."""
        rows = [self._field_bytes(name) // max(1, self.rows) for name in self.fields]
        chunks = sum(-(-self.rows // (self._layout.chunk_rows(self.rows, size) or self.rows)) for size in rows if self.rows)
        return HEADER + 128 * chunks

    def _reserve(self, size: int) -> None:
        """Take the disk's room for the file, or raise OSError; where the system cannot, do nothing."""
        with self._partial.open("ab") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)

    def write(self, start: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write rows from `start` on of each named data set.

        Raises:
            ShardError: if the disk takes no more.
        """
        try:
            for name, x in arrays.items():
                packed = packed_of(self.fields[name][1])
                if packed is not None:
                    write_packed(self._file, name, packed, start, x)
                    continue
                self._file[name][start : start + len(x)] = x
        except (OSError, RuntimeError) as error:  # h5py raises either when the disk is full
            raise ShardError(f"{self.path}: rows {start} on cannot be written ({error})") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the file its name, or remove it after an error."""
        if error is not None:
            self._discard()
            return
        try:
            self._file.close()
            with self._partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
        except (OSError, RuntimeError) as caught:
            self._discard()
            raise ShardError(f"{self.path}: cannot be finished ({caught}); give another name, on a disk that has room") from caught

    def _discard(self) -> None:
        try:
            if self._file:
                self._file.close()
        except (OSError, RuntimeError):
            pass  # what could not be flushed is removed anyway
        self._partial.unlink(missing_ok=True)


def _allocated_at_once() -> Any:
    """Return the property list of a data set whose rows have their place in the file from the start, not filled."""
    import h5py

    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return plist
