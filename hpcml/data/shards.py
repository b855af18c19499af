"""The layout of a shard, how shards are found, and what is refused before any row is read.

A shard is an HDF5 file. A field is a data set inside it, named by its path ("x", "group/y"), whose first axis is rows.

- All fields that are used have the same number of rows in one file, and at least one row.
- A field has the same row shape and the same dtype in every shard; byte order, chunks and compression are each file's own.
- dtypes: float16, float32, float64, signed and unsigned integers of 8 to 64 bits, bool. A target of uint64 is refused.
- The rows of a data set are the rows of its shards, one file after the other, in natural order of their paths.

`docs/shards.md` says the same to a person who writes shards.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.elsewhere import external_folder
from hpcml.data.index import Field, Index, Shard
from hpcml.data.naming import refuse_misspelt, suggest, turned
from hpcml.data.storage import Stored, look
from hpcml.data.variable import Packing, find_variable
from hpcml.errors import DamagedShardError, ShardError

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
"""The dtypes a field may have, as numpy names them."""


def find_shards(pattern: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the absolute paths of all shards that a pattern, or each of several, names.

    Args:
        pattern: a path, a glob ("data/train-*.h5", "data/**/*.h5"), or a sequence of them.

    Returns:
        The files in natural order (part-2 before part-10) within a pattern, the patterns in the order given.

    Raises:
        ShardError: where a pattern matches nothing, or a file is named twice (its rows would be seen twice).
    """
    patterns = [pattern] if isinstance(pattern, str | Path) else list(pattern)
    if not patterns:
        raise ShardError("no shards were named; give a path or a glob such as 'data/train-*.h5'")
    found = [path for one in patterns for path in _matches(one)]
    twice = next((path for path in found if found.count(path) > 1), None) if len(set(found)) < len(found) else None
    if twice is not None:
        raise ShardError(f"{twice}: named twice by {[str(one) for one in patterns]}; its rows would be seen twice, so name it once")
    return found


def _matches(pattern: str | Path) -> list[Path]:
    """Return the files of one pattern in natural order."""
    path = Path(pattern).expanduser().absolute()
    if path.is_dir():
        raise ShardError(f"{path}: is a folder, expected a file or a glob; try '{pattern}/*.h5'")
    if path.exists():
        return [path]
    found = [Path(name) for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name)]
    if found:
        return sorted(found, key=_natural)
    if not glob.has_magic(str(path)):
        raise ShardError(f"{path}: no such file; check the path, which was given as {str(pattern)!r}")
    folder = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
    inside = f"{len(os.listdir(folder))} entries, none of which match" if folder.is_dir() else "which does not exist"
    raise ShardError(f"no shard matches {str(pattern)!r}; looked in {folder} ({inside})")


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key in which runs of digits compare as numbers; the path itself settles part-2 against part-02."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], str(path)


def index_shards(
    paths: Sequence[str | Path],
    features: str | Sequence[str],
    target: str | Sequence[str] | None,
    weights: str | None = None,
    *,
    cf: bool | None = None,
    fill: float | None = None,
    packing: Packing | None = None,
) -> Index:
    """Read the metadata of every shard and return it, or refuse the first shard that breaks the layout.

    Args:
        paths: the files, in the order their rows shall have.
        features: the field that becomes x; several are joined into one row, flat and in the order given.
        target: the field (or fields) that becomes y, or None.
        weights: the field with one number a row by which its loss counts, or None.
        cf: apply attributes such as scale_factor and _FillValue; False: numbers as they stand; None: what they would change is refused.
        fill: with cf, the number that takes the place of fill values; left out, they are NaN and refused with their row.
        packing: how rows of variable length are held and become rows of one length.

    Raises:
        ShardError: naming the file, the field, what was expected, what was found, and what to do.
    """
    if not paths:
        raise ShardError("no shards were given; name at least one file")
    wanted = [_names(features), _names(target), _names(weights)]
    first: list[Field | None] = []
    shards = []
    for path in map(Path, paths):
        found, shard = _inspect(path, wanted, Reading(cf, fill, packing or Packing()))
        first = first or found
        for old, new in zip(first, found, strict=True):
            _agree(path, Path(paths[0]), old, new)
        shards.append(shard)
    x, y, w = first
    if x is None:
        raise ShardError("no features were read; name the field that holds them")
    return Index(x, y, tuple(shards), w)


def join_indices(parts: Sequence[Index], paths: Sequence[str]) -> Index:
    """Return the index of files that were dealt out, in the order of these paths.

    Raises:
        ShardError: for a part whose fields are not those of the first.
    """
    for first, part in ((parts[0], part) for part in parts[1:]):
        for old, new in zip((first.x, first.y, first.weights), (part.x, part.y, part.weights), strict=True):
            _agree(Path(part.shards[0].path), Path(first.shards[0].path), old, new)
    shards = {shard.path: shard for part in parts for shard in part.shards}
    return Index(parts[0].x, parts[0].y, tuple(shards[path] for path in paths), parts[0].weights)


@dataclass(frozen=True, slots=True)
class Reading:
    """How files become rows: by the CF convention or as they are, what fill values become, and rows of variable length."""

    cf: bool | None = None
    fill: float | None = None
    packing: Packing = field(default_factory=Packing)


def _names(field: str | Sequence[str] | None) -> list[str]:
    return [] if field is None else [field] if isinstance(field, str) else list(field)


def open_file(path: str | Path) -> Any:
    """Open one shard read-only and without a lock, or say in one sentence why it cannot be used.

    Locks are left out because many parallel file systems do not grant them, and nobody writes to a shard in use.

    Raises:
        ShardError: for a file that is missing, empty, truncated, or not HDF5.
    """
    import h5py

    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise DamagedShardError(f"{path}: is empty (0 bytes), expected an HDF5 file; write or copy the shard again")
        return h5py.File(path, "r", locking=False)
    except ShardError:
        raise
    except FileNotFoundError:
        if path.is_symlink():
            raise ShardError(f"{path}: is a symbolic link to {os.readlink(path)}, which does not exist; mend the link") from None
        raise ShardError(f"{path}: no such file; check the path, or copy the shard again") from None
    except PermissionError as error:
        raise ShardError(f"{path}: may not be read by this user; change its permissions ({error})") from error
    except (OSError, RuntimeError) as error:
        raise _diagnose(path, size, error) from error


def find_dataset(path: Path, file: Any, name: str) -> Any:
    """Return the object of a name in an open file, None where there is none; external rows are looked for beside the file."""
    import h5py

    item = file.get(name)
    names = [one for one, _, _ in item.external or ()] if isinstance(item, h5py.Dataset) else []
    folder = external_folder(Path(item.file.filename), names) if names else ""
    if not folder:
        return item
    del item  # HDF5 takes another folder only while the data set is closed
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(folder.encode())
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def _diagnose(path: Path, size: int, error: Exception) -> ShardError:
    """Return what says whether a file that would not open is in use, another kind of file, or a damaged HDF5 file, and what to do."""
    import h5py

    kind, reason = ShardError, str(error)
    if "Too many open files" in reason:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text = f"cannot be opened, this process has as many files open as it may ({limit}); raise the limit with `ulimit -n`"
    elif "already open for write" in reason or "consistency flags" in reason:
        text = "is open for writing in another program, or was left open by one that died (then `h5clear -s` mends it)"
    else:
        kind, text = DamagedShardError, f"is a damaged or truncated HDF5 file of {size} bytes; write or copy the shard again"
        if path.is_file() and not h5py.is_hdf5(path):
            with path.open("rb") as file:
                text = f"is not an HDF5 file, its {size} bytes start with {file.read(8)!r}; write or copy the shard again"
    return kind(f"{path}: {text} ({error})")


def _refuse_writer(path: Path) -> None:
    """Raise ShardError where another program holds the lock that HDF5 takes for writing.

    Only files of libver="latest" say themselves that somebody writes to them; in others, rows not yet written would be read as zeros.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ShardError(f"{path}: is open for writing in another program; close it there, or wait until it is done") from error
    except OSError:
        return  # a file system without locks, or a file that `open_file` refuses


def _inspect(path: Path, wanted: Sequence[Sequence[str]], reading: Reading) -> tuple[list[Field | None], Shard]:
    """Return the fields of one shard (each None where none was wanted) and its entry in the index."""
    status = path.stat() if path.exists() else None
    _refuse_writer(path)
    with open_file(path) as file:
        try:
            for name, free in [(name, number == 0) for number, names in enumerate(wanted) for name in names]:
                refuse_misspelt(path, file, name, reading.packing, free)
            looked = {name: _field(path, file, name, reading) for names in wanted for name in names}
        except ShardError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, OverflowError) as error:
            # Damage behind an intact first block shows only when the metadata is walked.
            raise DamagedShardError(f"{path}: its metadata is damaged; write or copy the shard again ({error})") from error
    features, rows = next(((name, n) for name, (_, n, _) in looked.items()), ("", 0))
    for name, (_, n, _) in looked.items():
        if n != rows:
            shapes = {one: (length, *found.shape) for one, (found, length, _) in looked.items()}
            advice = turned(name, shapes[name], rows) or turned(features, shapes[features], n) or "write the shard again"
            raise ShardError(f"{path}: field {name!r} has {n} rows, field {features!r} has {rows}; {advice}")
    found = [Field.together([looked[name][0] for name in names]) for names in wanted]
    if found[1] is not None and found[1].dtype == "uint64":
        raise ShardError(f"{path}: field {found[1].name!r} is uint64, which a target of int64 cannot hold; write it as int64")
    if found[2] is not None and found[2].shape:
        raise ShardError(f"{path}: field {found[2].name!r} has rows of shape {found[2].shape}; weights are one number a row")
    # The status from before the look: a file that is written to meanwhile is then refused at the first read.
    size, time = (status.st_size, status.st_mtime_ns) if status else (0, 0)
    return found, Shard(str(path), rows, size, time, tuple((name, stored) for name, (_, _, stored) in looked.items()))


def _field(path: Path, file: Any, name: str, reading: Reading) -> tuple[Field, int, Stored]:
    """Return the named field of an open file, its number of rows, and how it is stored."""
    import h5py

    variable = find_variable(path, file, name, reading.packing, cf=reading.cf, instead=reading.fill) if name else None
    if variable is not None:
        shape, rows, stored = variable
        return Field(name, shape, _supported(path, name, np.dtype(stored.dtype))), rows, stored
    item = find_dataset(path, file, name) if name.strip("/") else file
    if not isinstance(item, h5py.Dataset):
        what = "is a group" if isinstance(item, h5py.Group) else "is absent"
        raise ShardError(f"{path}: field {name!r} {what}; {suggest(file, name)}")
    dtype = _supported(path, name, dtype_of(path, item))
    if not item.shape:
        raise ShardError(f"{path}: field {name!r} has shape {item.shape}, expected rows on its first axis; write it as an array")
    if item.size == 0:
        raise ShardError(f"{path}: field {name!r} is empty, shape {item.shape}; leave the file out, or write it again with rows")
    stored = look(path, item, reading.cf, reading.fill)
    if not stored.is_plain and np.dtype(dtype).kind != "f":
        dtype = "float64"  # scaled whole numbers, or ones that may be missing, are real
    return Field(name, tuple(map(int, item.shape[1:])), dtype), int(item.shape[0]), stored


def dtype_of(path: Path, item: Any) -> np.dtype[Any]:
    """Return numpy's dtype of an open data set, or refuse a type that numpy does not have, such as integers of three bytes."""
    try:
        found: np.dtype[Any] = item.dtype
    except TypeError as error:
        raise ShardError(f"{path}: field {item.name.lstrip('/')!r} has a type that numpy lacks ({error}); write it as numbers") from error
    return found


def _supported(path: Path, name: str, dtype: np.dtype[Any]) -> str:
    """Return numpy's name of a dtype that a field may have, without its byte order, or refuse it."""
    found = dtype.newbyteorder("=").name if dtype.fields is None and dtype.subdtype is None else str(dtype)
    if found not in DTYPES:
        raise ShardError(f"{path}: field {name!r} has dtype {dtype}, expected one of {', '.join(DTYPES)}; write it as numbers")
    return found


def _agree(path: Path, first_path: Path, first: Field | None, found: Field | None) -> None:
    """Refuse a field that differs from the first shard's."""
    if first is None or found is None or first == found:
        return
    what, old, new = ("dtype", first.dtype, found.dtype) if first.shape == found.shape else ("row shape", first.shape, found.shape)
    raise ShardError(f"{path}: field {found.name!r} has {what} {new}, expected {old} as in {first_path}; write all shards alike")
