"""What is known of a set of shards before any row is read: plain data, so that one rank can read it for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.elsewhere import Source
from hpcml.data.storage import Stored


@dataclass(frozen=True, slots=True)
class Field:
    """A named data set that every shard has: its path inside the file, the shape of one row, and its dtype.

    The dtype is a numpy name such as "float32", without the byte order: h5py swaps bytes as it reads,
    so shards written on machines of both kinds may stand side by side.
    Several data sets may be one field: then `parts` names them, and a row is their numbers one after the other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Field, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Field]) -> Field:
        """Return the field whose rows are the flat rows of several, in order; the dtype is one that holds them all."""
        columns = sum(int(np.prod(part.shape, dtype=np.int64)) for part in parts)
        dtype = np.result_type(*(np.dtype(part.dtype) for part in parts)).name
        return cls("+".join(part.name for part in parts), (columns,), dtype, tuple(parts))

    @classmethod
    def together(cls, fields: Sequence[Field]) -> Field | None:
        """Return several fields as one, one as it is, none as None."""
        return None if not fields else fields[0] if len(fields) == 1 else cls.joined(fields)

    @property
    def stored(self) -> tuple[Field, ...]:
        """The data sets behind the field: its parts, or itself."""
        return self.parts or (self,)

    @property
    def nbytes(self) -> int:
        """Bytes of one row as it lies in the files."""
        return sum(int(np.prod(part.shape, dtype=np.int64)) * np.dtype(part.dtype).itemsize for part in self.stored)

    def memory_dtype(self, real: Any) -> np.dtype[Any]:
        """Return the dtype a target has in memory: `real` for floating fields, int64 for whole numbers and truth values."""
        return np.dtype(real) if np.dtype(self.dtype).kind == "f" else np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: where it is, how many rows it has, the size and time by which a later change is noticed, and how its fields lie in it."""

    path: str
    rows: int
    size: int
    mtime_ns: int
    fields: tuple[tuple[str, Stored], ...] = ()
    sha256: str = ""
    """What a manifest says; empty where there is none."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The other files whose rows the shard shows."""
        return tuple(source for _, stored in self.fields for source in stored.sources)

    def stored(self, name: str) -> Stored:
        """Return how the field of this name lies in the file.

        Raises:
            KeyError: if the index was made without it.
        """
        return dict(self.fields)[name]


@dataclass(frozen=True)
class Index:
    """All shards of a data set in the order of their rows, with the fields they share.

    Args:
        x: the features.
        y: the target, or None where rows have none.
        shards: at least one, each with at least one row.
        weights: one number a row, by which its loss counts; None where all count alike.
    """

    x: Field
    y: Field | None
    shards: tuple[Shard, ...]
    weights: Field | None = None

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
        x = _field(plain["x"])
        if x is None:
            raise ValueError("an index needs features; expected an object at key 'x', found null")
        shards = [
            Shard(**{**shard, "fields": tuple((name, Stored.from_plain(stored)) for name, stored in shard["fields"])})
            for shard in plain["shards"]
        ]
        return cls(x, _field(plain["y"]), tuple(shards), _field(plain["weights"]))

    def fingerprint(self) -> str:
        """Return the sha256 of the fields and of each shard's file name and rows.

        Folder and time of change stay out of it: a copy of the data set in another place has the same fingerprint.
        """
        fields = [None if field is None else _essence(field) for field in (self.x, self.y)]
        weights = [] if self.weights is None else [_essence(self.weights)]
        shards = [[Path(shard.path).name, shard.rows] for shard in self.shards]
        return hashlib.sha256(json.dumps([fields + weights, shards]).encode()).hexdigest()


def _field(plain: dict[str, Any] | None) -> Field | None:
    if plain is None:
        return None
    parts = tuple(part for part in map(_field, plain["parts"]) if part is not None)
    return Field(plain["name"], tuple(plain["shape"]), plain["dtype"], parts)


def _essence(field: Field) -> list[Any]:
    return [field.name, field.shape, field.dtype, *([[_essence(part) for part in field.parts]] if field.parts else [])]
