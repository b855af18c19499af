"""The rows of many shards as they are stored, every field of them: what the tools read, a run of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.contents import Contents
from hpcml.data.index import Shard
from hpcml.data.packed import packed_of, read_packed
from hpcml.data.shards import open_file
from hpcml.data.storage import require_filters
from hpcml.errors import DataError, ShardError


class AllRows:
    """Every row field of many shards as one row space, read a run of rows at a time; one file is open at a time.

    Args:
        shards: the files, in the order of their rows.
        contents: of the first shard; the others were found alike.
    """

    def __init__(self, shards: Sequence[Shard], contents: Contents) -> None:
        self.shards, self.contents = tuple(shards), contents
        self._edges = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])]).astype(np.int64)
        self._path, self._file = "", None

    @property
    def rows(self) -> int:
        """Rows of all shards together."""
        return int(self._edges[-1])

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field, as stored.

        Raises:
            DataError: if the rows do not exist.
            ShardError: for a file that changed, or a block that cannot be read, naming file, field and rows.
        """
        if not 0 <= start <= stop <= self.rows:
            raise DataError(f"rows {start}:{stop} do not exist, the data set has rows 0:{self.rows}")
        parts = list(self._parts(start, stop))
        fields = self.contents.fields
        if not parts:
            return {name: np.empty((0, *shape), dtype) for name, (shape, dtype) in fields.items()}
        return {name: _joined([part[name] for part in parts], fields[name][1]) for name in fields}

    def entries(self, rows: np.ndarray) -> dict[str, int]:
        """Return the entries that rows, (n,) int64 in any order, have together in each field of variable length.

        Raises:
            ShardError: for offsets that cannot be read.
        """
        found = {name: packed for name, (_, dtype) in self.contents.fields.items() if (packed := packed_of(dtype)) is not None}
        total, ordered = dict.fromkeys(found, 0), np.sort(rows) if found else rows[:0]
        cuts = np.searchsorted(ordered, self._edges).tolist()
        for shard, first, low, high in zip(self.shards, self._edges.tolist(), cuts, cuts[1:], strict=False):
            if low == high:
                continue
            with open_file(shard.path) as file:
                for name, packed in found.items():
                    offsets = read_rows(file[name], shard.path, packed.names[-1], 0, shard.rows + 1).astype(np.int64)
                    total[name] += int(np.diff(offsets)[ordered[low:high] - first].sum())
        return total

    def locate(self, row: int) -> tuple[str, int]:
        """Return the file of a row and its number in that file."""
        shard = int(np.searchsorted(self._edges, row, side="right")) - 1
        return self.shards[shard].path, row - int(self._edges[shard])

    def close(self) -> None:
        """Close the open file; a later read opens it again."""
        if self._file is not None:
            self._file.close()
        self._path, self._file = "", None

    def _parts(self, start: int, stop: int) -> Iterator[Mapping[str, np.ndarray]]:
        shard = int(np.searchsorted(self._edges, start, side="right")) - 1
        while start < stop:
            first, last = int(self._edges[shard]), int(self._edges[shard + 1])
            end = min(stop, last)
            if end > start:
                yield self._read_file(self.shards[shard], start - first, end - first)
            start, shard = end, shard + 1

    def _read_file(self, shard: Shard, start: int, stop: int) -> dict[str, np.ndarray]:
        if self._path != shard.path:
            self.close()
            require_unchanged(shard)
            file = open_file(shard.path)
            self._path, self._file = shard.path, file
            for name, (_, dtype) in self.contents.fields.items():
                packed = packed_of(dtype)
                for item in [file[name]] if packed is None else [file[name][one] for one in packed.names]:
                    require_filters(Path(shard.path), item)
        return {name: read_rows(self._file, shard.path, name, start, stop, kind) for name, (_, kind) in self.contents.fields.items()}


def _joined(parts: list[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    """Return the parts as one array of this dtype: shards may differ in byte order."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole if whole.dtype == dtype else whole.astype(dtype)


def read_rows(file: Any, path: str | Path, name: str, start: int, stop: int, kind: Any = None) -> np.ndarray:
    """Return rows of one field of an open file; its dtype, as `Contents` has it, is needed where they are of variable length.

    Raises:
        ShardError: naming file, field and rows, if they cannot be read.
    """
    try:
        packed = None if kind is None else packed_of(kind)
        return np.asarray(file[name][start:stop]) if packed is None else read_packed(file[name], start, stop, packed.names)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ShardError(f"{path}: field {name!r}, rows {start}:{stop} cannot be read; write or copy the shard again ({error})") from error


def require_unchanged(shard: Shard) -> None:
    """Raise ShardError where a file is gone, or has another size or time than when it was looked into."""
    try:
        status = Path(shard.path).stat()
    except OSError as error:
        raise ShardError(f"{shard.path}: was there a moment ago and cannot be found any more ({error})") from error
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
        raise ShardError(f"{shard.path}: changed since it was looked into; start again once nobody writes to it")
