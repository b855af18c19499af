"""Open shards: a few at a time, each process its own, and never one that changed behind our back."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np

from hpcml.data.index import Field, Shard
from hpcml.data.shards import open_file
from hpcml.errors import ShardError

OPEN_AT_ONCE = 64
"""Files a process keeps open: far under the usual limit of 1024, and more than one window of blocks touches soon again."""

RECHECK_SECONDS = 1.0
"""How long an open file is trusted before its size and time are looked at again; a look costs a parallel file system about 1 ms."""

STAGING_BYTES = 1 << 20
"""Rows that need another dtype pass through a block of this size, which stays in the cache of one core."""


class Handles:
    """Open shards of one process, the least recently used closed first; a caller takes its `turn` around every call.

    A handle that crosses a fork shares its file and HDF5's locks with the parent, so that reads hang or return
    another row: a child that finds open handles is refused. Handles not yet opened cross a fork without harm.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[Any, dict[str, Any]]] = OrderedDict()
        self._checked: dict[str, float] = {}
        self._staging: dict[str, np.ndarray] = {}
        self._pid = os.getpid()
        self.turn = threading.Lock()

    def __len__(self) -> int:
        """Return how many files are open."""
        return len(self._open)

    def check_process(self) -> None:
        """Raise ShardError in a process that inherited open handles by a fork."""
        if self._pid == os.getpid():
            return
        if self._open:
            path = next(iter(self._open))
            raise ShardError(
                f"{path}: was opened by process {self._pid} and is used by its fork {os.getpid()};"
                " open the data set in the child, or read with threads"
            )
        self._pid = os.getpid()
        # A thread of the parent may have held the lock at the fork; in the child nobody would give it back.
        self.turn = threading.Lock()

    def read(self, shard: Shard, field: Field, start: int, out: np.ndarray) -> None:
        """Overwrite `out` (n, *row shape), C-contiguous, with n rows of a field, converted to out's dtype.

        Raises:
            ShardError: for a changed file or a block that cannot be read, naming file, field and rows.
        """
        stop = start + len(out)
        source = self._field(shard, field)
        try:
            if source.dtype == out.dtype:
                _read_rows(source, start, out)
            else:
                self._convert(source, start, out)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"{shard.path}: field {field.name!r}, rows {start}:{stop}"
            raise ShardError(f"{where} cannot be read; write or copy the shard again ({error})") from error

    def close(self) -> None:
        """Close every file; the next read opens what it needs again."""
        while self._open:
            self._open.popitem()[1][0].close()

    def _convert(self, source: Any, start: int, out: np.ndarray) -> None:
        """Read through a block of the file's dtype in this machine's byte order, so that numpy's casts are the only ones."""
        block = self._staging_for(source.dtype.newbyteorder("="), source.shape[1:])
        for first in range(0, len(out), len(block)):
            part = out[first : first + len(block)]
            _read_rows(source, start + first, block[: len(part)])
            # A float64 too large for float32 becomes infinite here and is reported by the loader with its row.
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(part, block[: len(part)], casting="unsafe")

    def _staging_for(self, dtype: np.dtype[Any], row: tuple[int, ...]) -> np.ndarray:
        """Return a block of at least one row, made once for each dtype and row shape."""
        key = f"{dtype.str}{row}"
        if key not in self._staging:
            row_bytes = dtype.itemsize * int(np.prod(row, dtype=np.int64))
            self._staging[key] = np.empty((max(1, STAGING_BYTES // row_bytes), *row), dtype)
        return self._staging[key]

    def _field(self, shard: Shard, field: Field) -> Any:
        """Return the open h5py data set of a field."""
        path = shard.path
        now = time.monotonic()
        if path not in self._open or now - self._checked[path] > RECHECK_SECONDS:
            _refuse_changed(shard)
            self._checked[path] = now
        if path not in self._open:
            if len(self._open) >= OPEN_AT_ONCE:
                self._open.popitem(last=False)[1][0].close()
            self._open[path] = (open_file(path), {})
        self._open.move_to_end(path)
        file, fields = self._open[path]
        if field.name not in fields:
            try:
                fields[field.name] = file[field.name]
            except (KeyError, OSError, RuntimeError) as error:
                raise ShardError(f"{path}: field {field.name!r} cannot be opened; write or copy the shard again ({error})") from error
        return fields[field.name]


def _read_rows(source: Any, start: int, out: np.ndarray) -> None:
    """Overwrite `out` with consecutive rows: read_direct without its parsing of selections, which costs more than a block."""
    from h5py import h5s

    space = source.id.get_space()
    space.select_hyperslab((start, *(0,) * (out.ndim - 1)), out.shape)
    source.id.read(h5s.create_simple(out.shape), space, out)


def _refuse_changed(shard: Shard) -> None:
    """Raise ShardError where a file is gone, or has another size or time than the index says."""
    try:
        status = os.stat(shard.path)
    except OSError as error:
        raise ShardError(f"{shard.path}: was indexed but cannot be found any more; copy the shard back ({error})") from error
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
        raise ShardError(
            f"{shard.path}: changed since it was indexed: {status.st_size} bytes written at {status.st_mtime_ns} ns,"
            f" expected {shard.size} bytes written at {shard.mtime_ns} ns; start again so that all ranks see the new file"
        )
