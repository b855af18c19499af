"""All that a shard holds, not only the two fields of a run: what the tools copy, check and describe.

A row field is a data set whose first axis has as many entries as the shard has rows. Everything else (scalars, coordinates of
another length) is common to all rows: it must be equal in all shards, and goes into every new one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.foreign import foreign_rows
from hpcml.data.packed import describe_group, packed_of
from hpcml.data.shards import dtype_of, open_file
from hpcml.data.storage import require_filters
from hpcml.data.variable import SHAPES, SPARSE, USUAL, Packing, refuse_columns_first, variable_groups
from hpcml.data.walking import walk
from hpcml.errors import ShardError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What one shard holds.

    Args:
        rows: of every row field.
        fields: name -> (shape of one row, dtype with its byte order), in the order of the names.
        common: name -> sha256 of a data set without rows.
        attributes: "name@key" -> its value's repr, for files, groups and data sets; references to objects are left out.
        references: the attributes left out, "name@key".
        chunk: rows of the largest chunk of a row field, 0 where all lie in one piece.
        others: name -> (rows of a chunk or 0, bytes of an entry, entries) of arrays of numbers that are no row fields: what the
            manifest hashes beside the rows, so that rows of variable length are checked too.
        variable: groups of rows of variable length, and the names of their data sets there; those with a row for each are row fields.
        links: other names in the file -> what they lead to there; what lies behind links to other files is a field as any other.
        packing: the names that hold rows of variable length.
    """

    rows: int
    fields: dict[str, tuple[Shape, np.dtype[Any]]]
    common: dict[str, str]
    attributes: dict[str, str]
    references: tuple[str, ...]
    chunk: int = 0
    others: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    variable: dict[str, tuple[str, ...]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    packing: Packing = USUAL

    @property
    def row_bytes(self) -> int:
        """Bytes of one row over all fields; a variable-length string counts as 16."""
        return sum(int(np.prod(shape, dtype=np.int64)) * _item_bytes(dtype) for shape, dtype in self.fields.values())

    def block(self, nbytes: int) -> int:
        """Return the rows of a block of about `nbytes`, in whole chunks, so that none is decoded twice."""
        rows = max(1, nbytes // max(1, self.row_bytes))
        return max(self.chunk, rows // self.chunk * self.chunk) if self.chunk else rows

    def schema(self) -> dict[str, list[Any]]:
        """Return the fields as plain data: name -> [row shape, dtype], such as [[64], "float32"]."""
        return {name: [list(shape), dtype_name(dtype)] for name, (shape, dtype) in self.fields.items()}


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name for people, without its byte order: "float32", "text"."""
    packed = packed_of(dtype)
    if packed is not None:
        return str(packed)
    if dtype.hasobject:
        return "text"
    return dtype.newbyteorder("=").name if dtype.fields is None and dtype.subdtype is None else str(dtype)


def read_contents(path: str | Path, along: str | None = None, common: Collection[str] = (), packing: Packing = USUAL) -> Contents:
    """Return what a file holds, from its metadata and its data sets without rows.

    Args:
        path: an HDF5 file.
        along: the field whose length is the number of rows; left out, "x", or else the commonest length of a first axis.
        common: data sets known to have no rows, though their length may by chance be the number of rows here.
        packing: the names that hold rows of variable length.

    Raises:
        ShardError: for a file that cannot be read, has no rows, or holds rows of a type that cannot be copied.
    """
    with open_file(path) as file:
        try:
            return _read_contents(Path(path), file, along, common, packing)
        except ShardError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ShardError(f"{path}: its metadata is damaged; write or copy the shard again ({error})") from error


def _read_contents(path: Path, file: Any, along: str | None, without: Collection[str], packing: Packing) -> Contents:
    import h5py

    walked = walk(file)
    for name, place in walked.lost.items():
        raise ShardError(f"{path}: {name!r} is a link to {place}, which cannot be found; mend the link, or take it out of the file")
    found, variable = walked.datasets, variable_groups(walked, packing)
    for item in found.values():
        require_filters(path, item)
    for name in variable:
        refuse_columns_first(f"{path}: field {name!r}", file[name])
    spread = {name: int(file[name][names[-1]].shape[0]) - 1 for name, names in variable.items()}
    lengths = {**{name: int(item.shape[0]) for name, item in found.items() if name not in _held(variable) and _has_rows(item)}, **spread}
    along = None if along is None else walked.links.get(along.strip("/"), along.strip("/") or "/")
    if along is not None and along not in lengths:
        raise ShardError(f"{path}: field {along!r} is absent or has no rows; the file has {', '.join(map(repr, found)) or '(nothing)'}")
    if not lengths:
        raise ShardError(f"{path}: holds no data set with rows; it has {', '.join(map(repr, found)) or '(nothing)'}")
    rows = lengths[along] if along is not None else _rows(lengths, spread)
    fields = {
        name: ((), describe_group(file[name], variable[name]).dtype)
        if name in variable
        else (tuple(map(int, found[name].shape[1:])), dtype_of(path, found[name]))
        for name in sorted(lengths)
        if lengths[name] == rows and name not in without
    }
    everything, held = found, _held({name: names for name, names in variable.items() if name in fields})
    found = {name: item for name, item in found.items() if name not in held}
    for name, (_, dtype) in fields.items():
        if dtype.hasobject and packed_of(dtype) is None and h5py.check_string_dtype(dtype) is None:
            raise ShardError(
                f"{path}: field {name!r} is {dtype}, of variable length, which cannot be copied; write it as offsets and values"
            )
    common = {name: _fingerprint(path, item) for name, item in sorted(found.items()) if name not in fields}
    attributes, references = _attributes({"": file, **walked.items}, [name for name in variable if name in fields])
    chunk = max((item.chunks[0] for name, item in found.items() if name in fields and item.chunks), default=0)
    others = {name: size for name, item in sorted(everything.items()) if name not in fields and (size := _size(path, item)) is not None}
    return Contents(rows, fields, common, attributes, references, int(chunk), others, variable, walked.links, packing)


def _has_rows(item: Any) -> bool:
    return bool(item.shape) and not foreign_rows(item)


def _size(path: Path, item: Any) -> tuple[int, int, int] | None:
    """Return (rows of a chunk or 0, bytes of an entry, entries) of an array of numbers, None for anything else."""
    if not item.shape or not item.size or (dtype := dtype_of(path, item)).kind not in "fiub":
        return None
    return int(item.chunks[0]) if item.chunks else 0, int(np.prod(item.shape[1:], dtype=np.int64)) * dtype.itemsize, int(item.shape[0])


def _held(variable: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the names of the data sets that hold rows of variable length, and the shape of sparse ones."""
    more = {len(SPARSE): ("shape",)}
    return {f"{group}/{name}".lstrip("/") for group, names in variable.items() for name in (*names, *more.get(len(names), ()))}


def _rows(lengths: Mapping[str, int], spread: Mapping[str, int]) -> int:
    """Return the rows of a file: those of "x" or "X", of all groups of variable length where these agree, or the commonest length."""
    agreed = set(spread.values())
    return lengths.get("x") or lengths.get("X") or (agreed.pop() if len(agreed) == 1 else _commonest(list(lengths.values())))


def _commonest(lengths: list[int]) -> int:
    """Return the length that most data sets have; the larger of two that are equally common."""
    return max(Counter(lengths).items(), key=lambda pair: (pair[1], pair[0]))[0]


def _item_bytes(dtype: np.dtype[Any]) -> int:
    packed = packed_of(dtype)
    if packed is not None:
        return packed.row_bytes
    return 16 if dtype.hasobject else dtype.itemsize


def _fingerprint(path: Path, item: Any) -> str:
    """Return the sha256 of a data set's shape, dtype and values."""
    digest = hashlib.sha256(f"{item.shape} {dtype_of(path, item)}".encode())
    if item.shape is not None and item.size:
        value = np.asarray(item[()])
        digest.update(repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes())
    return digest.hexdigest()


def _attributes(items: Mapping[str, Any], spread: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the attributes of everything in a file, and those that are references to objects; the shape of sparse rows is no attribute."""
    import h5py

    shapes = {f"{'' if name == '/' else name}@{key}" for name in spread for key in SHAPES}
    values: dict[str, str] = {}
    references: list[str] = []

    for name, item in items.items():
        for key in item.attrs:
            kind = item.attrs.get_id(key).dtype
            if kind.hasobject and h5py.check_string_dtype(kind) is None:
                references.append(f"{name}@{key}")
            elif f"{name}@{key}" not in shapes:
                values[f"{name}@{key}"] = repr(item.attrs[key])
    return dict(sorted(values.items())), tuple(sorted(references))


def require_alike(path: Path, found: Contents, first_path: Path, first: Contents) -> None:
    """Raise ShardError unless two shards have the same fields and the same data sets without rows, naming what differs."""
    if found.variable != first.variable:
        ours, theirs = (sorted(one.variable) for one in (found, first))
        raise ShardError(f"{path}: has rows of variable length in groups {ours}, {first_path} in {theirs}; write all shards alike")
    for name in sorted(set(found.fields) | set(first.fields)):
        if name not in found.fields or name not in first.fields:
            has, lacks = (path, first_path) if name in found.fields else (first_path, path)
            raise ShardError(f"{lacks}: field {name!r} is absent, but {has} has it; write all shards alike")
        (shape, dtype), (old_shape, old_dtype) = found.fields[name], first.fields[name]
        if shape != old_shape or dtype_name(dtype) != dtype_name(old_dtype):
            new, old = f"{shape} {dtype_name(dtype)}", f"{old_shape} {dtype_name(old_dtype)}"
            raise ShardError(f"{path}: field {name!r} has rows of {new}, expected {old} as in {first_path}; write all shards alike")
    for name in sorted(set(found.common) | set(first.common)):
        if found.common.get(name) != first.common.get(name):
            text = f"{path}: data set {name!r}, which has no rows, is not the one in {first_path}"
            raise ShardError(f"{text}; make them equal, or name a field with rows by --along if it should have them")
