"""Writing one HDF5 file of rows, block by block, whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hpcml.errors import ShardError

HEADER = 1 << 14
"""Bytes that HDF5's own notes may take beside the rows, generously."""


class RowWriter:
    """A file of named data sets with one row axis, which appears under its name only when it is complete.

    Args:
        path: the file to make or replace.
        rows: rows of every data set.
        fields: name -> (row shape, dtype).

    Raises:
        ShardError: on entering or leaving, if the file cannot be written; nothing is left behind.
    """

    def __init__(self, path: Path, rows: int, fields: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        self.path, self.rows, self.fields = path, rows, dict(fields)
        self._partial = path.with_name(f".partial-{path.name}")
        self._file: Any = None

    def __enter__(self) -> RowWriter:
        """Make the file under a hidden name, at its full size: a disk that fills up while HDF5 writes would crash this process."""
        import h5py

        try:
            self._reserve(sum(self.rows * math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.fields.values()) + HEADER)
            with h5py.File(self._partial, "w", locking=False) as file:
                for name, (shape, dtype) in self.fields.items():
                    file.create_dataset(name, (self.rows, *shape), dtype, track_times=False, dcpl=_allocated_at_once())
            self._reserve(self._partial.stat().st_size)
            self._file = h5py.File(self._partial, "r+", locking=False)
        except OSError as error:
            self._discard()
            why = error.strerror or str(error)
            raise ShardError(f"{self.path}: cannot be written ({why}); give a folder that exists and has room") from error
        return self

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
            raise ShardError(f"{self.path}: cannot be finished ({caught})") from caught

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
