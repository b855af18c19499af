"""Rows of variable length in a file: found, checked, described. Sparse rows (CSR) and ragged ones (offsets and values).

A group holds them: `indptr`, `indices`, `data` (what AnnData and scipy.sparse write), or `offsets`, `values`; other names are told
by a `Packing`. Row i is entries offsets[i] to offsets[i + 1] - 1. A field "hits" of such rows has two fields more, made of its
offsets: "hits/length", the entries of each row, and "hits/mask", 1 where a row has an entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.storage import SPREAD, Stored, Variable, look
from hpcml.data.walking import Walked
from hpcml.errors import ShardError

SPARSE = ("data", "indices", "indptr")
RAGGED = ("values", "offsets")
"""The data sets of a group of sparse and of ragged rows, unless a Packing says others."""

SHAPES = ("shape", "h5sparse_shape")
"""Attributes of a group of sparse rows that say rows and columns."""

SHOWN = ("length", "mask")
"""What a name behind the field's shows instead of its values."""

AT_ONCE = 1 << 20
"""Offsets read at once when they are checked."""


@dataclass(frozen=True, slots=True)
class Packing:
    """What a user says about rows of variable length.

    Args:
        sparse: names of the entries, their columns, and the offsets, inside the field's group; () for SPARSE.
        ragged: names of the entries and the offsets; () for RAGGED.
        pad_to: entries of a row in memory; 0: as a sparse field's shape says.
        pad_with: what stands where a ragged row has no entry.
        truncate: leave out entries of ragged rows behind `pad_to`, instead of refusing longer rows.
    """

    sparse: Sequence[str] = ()
    ragged: Sequence[str] = ()
    pad_to: int = 0
    pad_with: float = 0.0
    truncate: bool = False

    @property
    def kinds(self) -> tuple[tuple[str, ...], ...]:
        """The names that hold sparse rows, and those that hold ragged ones."""
        return tuple(self.sparse) or SPARSE, tuple(self.ragged) or RAGGED

    @classmethod
    def from_keys(cls, keys: Any) -> Packing:
        """Return what an object with attributes of the same names says, such as the section [data] of a config."""
        return cls(tuple(keys.sparse), tuple(keys.ragged), keys.pad_to, keys.pad_with, keys.truncate)


USUAL = Packing()
"""The names that AnnData, scipy.sparse and docs/shards.md give."""


def find_group(file: Any, name: str, packing: Packing) -> tuple[Any, tuple[str, ...]] | None:
    """Return the place of rows of variable length in an open file and the names that hold them there (3: sparse, 2: ragged), or None.

    The place is the field's group; where it has none, names of a Packing count from the root of the file.
    """
    import h5py

    group = file.get(name)
    told = tuple(packing.sparse) or tuple(packing.ragged)
    if isinstance(group, h5py.Dataset) or (group is None and not told):
        return None
    group = file if group is None else group
    if not isinstance(group, h5py.Group):
        return None
    for names in packing.kinds:
        if all(isinstance(group.get(one), h5py.Dataset) for one in names):
            return group, names
    return None


def variable_groups(walked: Walked, packing: Packing) -> dict[str, tuple[str, ...]]:
    """Return the groups of a walked file that hold rows of variable length under the names of a Packing: name ("/": the root) -> these.

    Fields that only have such names, of one row for each, are none.
    """
    import h5py

    found: dict[str, tuple[str, ...]] = {}
    for name, item in {"/": walked.root, **walked.items}.items():
        for names in packing.kinds if isinstance(item, h5py.Group) else ():
            held = [item.get(one) for one in names]
            if all(isinstance(one, h5py.Dataset) and one.ndim for one in held) and _may_be_offsets(held[-1], len(held[0])):
                found[name] = names
    return found


def _may_be_offsets(offsets: Any, entries: int) -> bool:
    return offsets.ndim == 1 and offsets.dtype.kind in "iu" and (len(offsets) != entries or offsets[-1] == entries)


def in_words(path: Path, file: Any, name: str, names: Sequence[str]) -> str:
    """Return what a group of rows of variable length holds, and the keys by which it becomes features.

    Raises:
        ShardError: for a group that cannot be used.
    """
    where, group = f"{path}: field {name!r}", file[name]
    refuse_columns_first(where, group)
    rows, longest, _ = check_offsets(where, group[names[-1]], group[names[0]])
    if len(names) == len(RAGGED):
        return f'{rows:,} ragged rows of up to {longest:,} entries; data.features = "{name}", data.pad_to = {longest}'
    columns = _columns(where, group, rows, Packing())
    share = len(group[names[0]]) / max(1, rows * columns)
    return f'{rows:,} sparse rows of {columns:,} columns, {share:.2%} of them filled; data.features = "{name}"'


def shown_field(file: Any, name: str) -> str:
    """Return the field of which a name shows values, length or mask."""
    parent, _, last = name.rpartition("/")
    return parent if last in SHOWN and parent and file.get(name) is None else name


def find_variable(path: Path, file: Any, name: str, packing: Packing, **reading: Any) -> tuple[tuple[int, ...], int, Stored] | None:
    """Return (row shape, rows, how they are stored) of a field of rows of variable length, or None if the name is none.

    Args:
        path: the file, for messages.
        file: the open h5py file.
        name: of the field; "/length" or "/mask" behind it shows these.
        packing: how the rows are held and become rows of one length.
        reading: what `look` takes about the values: cf, instead.

    Raises:
        ShardError: for offsets, columns or lengths that cannot be, naming the row.
    """
    field = shown_field(file, name)
    show = "values" if field == name else name.rpartition("/")[2]
    found = find_group(file, field, packing)
    if found is None:
        return None
    group, names = found
    values, indices, offsets = (group[names[0]], group[names[1]] if len(names) == 3 else None, group[names[-1]])
    where = f"{path}: field {field!r}"
    refuse_columns_first(where, group)
    rows, longest, row = check_offsets(where, offsets, values)
    columns = packing.pad_to
    if indices is None and show != "length":
        _check_length(where, longest, row, packing)
    if indices is not None and show != "length":
        columns = _columns(where, group, rows, packing)
        if show == "mask" or indices.shape != values.shape:
            text = "has no mask: its entries stand anywhere in a row" if show == "mask" else "needs one column number for each value"
            raise ShardError(f"{where} {text}; it has values of shape {values.shape} and columns of shape {indices.shape}")
    variable = Variable(
        show,
        columns,
        values.name.lstrip("/"),
        offsets.name.lstrip("/"),
        "" if indices is None else indices.name.lstrip("/"),
        0.0 if indices is not None else packing.pad_with,
        packing.truncate and indices is None,
    )
    shape = () if show == "length" else (columns,) if show == "mask" else (columns, *map(int, values.shape[1:]))
    return shape, rows, _describe(path, variable, values, indices, offsets, reading)


def _describe(path: Path, variable: Variable, values: Any, indices: Any, offsets: Any, reading: dict[str, Any]) -> Stored:
    """Return how the rows are stored: each of their data sets, and what they become."""
    parts = {variable.offsets: look(path, offsets)}
    if indices is not None and indices.size:
        parts[variable.indices] = look(path, indices)
    if variable.show == "values" and values.size:
        parts[variable.values] = look(path, values, **reading)
    shown = parts.get(variable.values)
    kind = "<i8" if variable.show != "values" else values.dtype.str if shown is None or shown.is_plain else "<f8"
    return Stored(
        SPREAD,
        ("sparse" if variable.indices else "ragged") + " rows: values by their own roads, spread over rows of equal length",
        kind,
        nbytes=sum(part.nbytes for part in parts.values()),
        sources=tuple(source for part in parts.values() for source in part.sources),
        variable=variable,
        parts=tuple(parts.items()),
    )


def refuse_columns_first(where: str, group: Any) -> None:
    """Raise ShardError for a matrix kept column by column (CSC), whose rows lie all over the file."""
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    held = group.get("format")
    if held is not None and not held.shape:
        held = held[()]
        kind = held.decode() if isinstance(held, bytes) else str(held)
    if kind.startswith(("csc", "coo", "bsr")):
        raise ShardError(f"{where} is a {kind} matrix, whose rows cannot be read by themselves; write it as CSR (matrix.tocsr())")


def check_offsets(where: str, offsets: Any, values: Any) -> tuple[int, int, int]:
    """Return (rows, entries of the longest row, that row), having read the offsets once.

    Raises:
        ShardError: if they do not start at 0, fall, or do not end where the values do.
    """
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or offsets.shape[0] < 2:
        found = f"{offsets.name!r} is {offsets.dtype} of shape {offsets.shape}"
        raise ShardError(f"{where}: {found}, expected whole numbers, one more than rows; write it so")
    before, longest, at = 0, -1, 0
    for start in range(0, offsets.shape[0], AT_ONCE):
        block = offsets[start : start + AT_ONCE].astype(np.int64)
        if start == 0 and block[0] != 0:
            raise ShardError(f"{where}: {offsets.name!r} starts at {block[0]}, expected 0; write the shard again")
        lengths = np.diff(block, prepend=before)
        if lengths.min() < 0:
            row = start + int(lengths.argmin()) - 1
            raise ShardError(f"{where}: {offsets.name!r} falls behind row {row}; offsets must not fall, write the shard again")
        if lengths.max() > longest:
            longest, at = int(lengths.max()), start + int(lengths.argmax()) - 1
        before = int(block[-1])
    if before != values.shape[0]:
        raise ShardError(
            f"{where}: {offsets.name!r} ends at {before}, {values.name!r} has {values.shape[0]} entries; write the shard again"
        )
    return int(offsets.shape[0]) - 1, longest, max(at, 0)


def _columns(where: str, group: Any, rows: int, packing: Packing) -> int:
    """Return the columns of sparse rows: as a Packing says, or as the file does."""
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    if shape is None and group.get("shape") is not None:
        shape = group["shape"][()]
    shape = [] if shape is None else np.ravel(shape).tolist()
    if packing.pad_to:
        return packing.pad_to
    if len(shape) != 2:
        raise ShardError(f"{where} holds sparse rows without a shape; say how many columns they have by data.pad_to")
    if shape[0] != rows and shape[1] == rows:
        shape = shape[::-1]  # 10x Genomics keep (features, cells), with the offsets of cells
    if shape[0] != rows:
        raise ShardError(f"{where} says {shape[0]} rows of {shape[1]} columns, its offsets are of {rows} rows; write the shard again")
    return int(shape[1])


def _check_length(where: str, longest: int, row: int, packing: Packing) -> None:
    """Refuse ragged rows that have no length to be padded to, or are longer."""
    if not packing.pad_to:
        raise ShardError(f"{where} holds ragged rows of up to {longest} entries (row {row}); set data.pad_to, such as {longest}")
    if longest > packing.pad_to and not packing.truncate:
        text = f"{where}: row {row} has {longest} entries, data.pad_to is {packing.pad_to}"
        raise ShardError(f"{text}; make it {longest}, or set data.truncate = true to leave out what is behind")
