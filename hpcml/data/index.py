"""What is known of a set of shards before any row is read: plain data, so that one rank can read it for all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Field:
    """A named data set that every shard has: its path inside the file, the shape of one row, and its dtype.

    The dtype is a numpy name such as "float32", without the byte order: h5py swaps bytes as it reads,
    so shards written on machines of both kinds may stand side by side.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def memory_dtype(self, real: Any) -> np.dtype[Any]:
        """Return the dtype a target has in memory: `real` for floating fields, int64 for whole numbers and truth values."""
        return np.dtype(real) if np.dtype(self.dtype).kind == "f" else np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: where it is, how many rows it has, and the size and time by which a later change is noticed."""

    path: str
    rows: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Index:
    """All shards of a data set in the order of their rows, with the fields they share.

    Args:
        x: the features.
        y: the target, or None where rows have none.
        shards: at least one, each with at least one row.
    """

    x: Field
    y: Field | None
    shards: tuple[Shard, ...]

    @cached_property
    def shard_rows(self) -> tuple[int, ...]:
        """Rows of each shard, in order."""
        return tuple(shard.rows for shard in self.shards)

    @cached_property
    def rows(self) -> int:
        """Rows of all shards together."""
        return sum(self.shard_rows)

    def to_json(self) -> bytes:
        """Return the index as JSON bytes, for rank 0 to broadcast."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes | str) -> Index:
        """Return the index that `to_json` wrote."""
        plain = json.loads(text)
        fields = [None if f is None else Field(f["name"], tuple(f["shape"]), f["dtype"]) for f in (plain["x"], plain["y"])]
        if fields[0] is None:
            raise ValueError("an index needs features; expected an object at key 'x', found null")
        return cls(fields[0], fields[1], tuple(Shard(**shard) for shard in plain["shards"]))

    def fingerprint(self) -> str:
        """Return the sha256 of the fields and of each shard's file name and rows.

        Folder and time of change stay out of it: a copy of the data set in another place has the same fingerprint.
        """
        fields = [None if field is None else [field.name, field.shape, field.dtype] for field in (self.x, self.y)]
        shards = [[Path(shard.path).name, shard.rows] for shard in self.shards]
        return hashlib.sha256(json.dumps([fields, shards]).encode()).hexdigest()
