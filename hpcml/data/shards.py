"""The layout of a shard, how shards are found, and what is refused before any row is read.

A shard is an HDF5 file. A field is a data set inside it, named by its path ("x", "group/y"), whose first axis is rows.

- All fields that are used have the same number of rows in one file, and at least one row.
- A field has the same row shape and the same dtype in every shard; byte order, chunks and compression are each file's own.
- dtypes: float16, float32, float64, signed and unsigned integers of 8 to 64 bits, bool. A target of uint64 is refused.
- The rows of a data set are the rows of its shards, one file after the other, in natural order of their paths.

`docs/shards.md` says the same to a person who writes shards.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcml.data.index import Field, Index, Shard
from hpcml.errors import ShardError

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


def index_shards(paths: Sequence[str | Path], features: str, target: str | None) -> Index:
    """Read the metadata of every shard and return it, or refuse the first shard that breaks the layout.

    Args:
        paths: the files, in the order their rows shall have.
        features: the field that becomes x.
        target: the field that becomes y, or None.

    Raises:
        ShardError: naming the file, the field, what was expected, what was found, and what to do.
    """
    if not paths:
        raise ShardError("no shards were given; name at least one file")
    first: list[Field | None] = []
    shards = []
    for path in map(Path, paths):
        found, shard = _inspect(path, features, target)
        first = first or found
        for old, new in zip(first, found, strict=True):
            _agree(path, Path(paths[0]), old, new)
        shards.append(shard)
    if first[0] is None:
        raise ShardError("no features were read; name the field that holds them")
    return Index(first[0], first[1], tuple(shards))


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
            raise ShardError(f"{path}: is empty (0 bytes), expected an HDF5 file; write or copy the shard again")
        return h5py.File(path, "r", locking=False)
    except ShardError:
        raise
    except FileNotFoundError:
        raise ShardError(f"{path}: no such file; check the path, or copy the shard again") from None
    except PermissionError as error:
        raise ShardError(f"{path}: may not be read by this user; change its permissions ({error})") from error
    except (OSError, RuntimeError) as error:
        raise ShardError(f"{path}: {_diagnose(path, size)}; write or copy the shard again ({error})") from error


def _diagnose(path: Path, size: int) -> str:
    """Say whether a file that would not open is another kind of file, or a damaged HDF5 file."""
    import h5py

    if path.is_file() and not h5py.is_hdf5(path):
        with path.open("rb") as file:
            return f"is not an HDF5 file, its {size} bytes start with {file.read(8)!r}"
    return f"is a damaged or truncated HDF5 file of {size} bytes"


def _inspect(path: Path, features: str, target: str | None) -> tuple[list[Field | None], Shard]:
    """Return the fields of one shard (y may be None) and its entry in the index."""
    with open_file(path) as file:
        try:
            x, rows = _field(path, file, features)
            y, y_rows = (None, rows) if target is None else _field(path, file, target)
        except ShardError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            # Damage behind an intact first block shows only when the metadata is walked.
            raise ShardError(f"{path}: its metadata is damaged; write or copy the shard again ({error})") from error
    if y_rows != rows:
        raise ShardError(f"{path}: field {target!r} has {y_rows} rows, field {features!r} has {rows}; write the shard again")
    if y is not None and y.dtype == "uint64":
        raise ShardError(f"{path}: field {target!r} is uint64, which a target of int64 cannot hold; write it as int64")
    status = path.stat()
    return [x, y], Shard(str(path), rows, status.st_size, status.st_mtime_ns)


def _field(path: Path, file: Any, name: str) -> tuple[Field, int]:
    """Return the named field of an open file and its number of rows."""
    import h5py

    item = file.get(name) if name.strip("/") else file
    if not isinstance(item, h5py.Dataset):
        what = "is a group" if isinstance(item, h5py.Group) else "is absent"
        raise ShardError(f"{path}: field {name!r} {what}; {_suggest(file, name)}")
    dtype = item.dtype.newbyteorder("=").name if item.dtype.fields is None and item.dtype.subdtype is None else str(item.dtype)
    if dtype not in DTYPES:
        raise ShardError(f"{path}: field {name!r} has dtype {item.dtype}, expected one of {', '.join(DTYPES)}; write it as numbers")
    if not item.shape:
        raise ShardError(f"{path}: field {name!r} has shape {item.shape}, expected rows on its first axis; write it as an array")
    if item.size == 0:
        raise ShardError(f"{path}: field {name!r} is empty, shape {item.shape}; leave the file out, or write it again with rows")
    _refuse_unwritten(path, item, name)
    return Field(name, tuple(map(int, item.shape[1:])), dtype), int(item.shape[0])


def _suggest(file: Any, name: str) -> str:
    """List the data sets of a file, the one whose name is near first."""
    import h5py

    names: list[str] = []
    file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint}the file has the data sets {', '.join(map(repr, names[:20])) or '(none)'}{more}"


def _refuse_unwritten(path: Path, item: Any, name: str) -> None:
    """Refuse data sets that HDF5 would fill with zeros, or cannot decode at all."""
    import h5py

    if item.is_virtual or item.external:
        raise ShardError(f"{path}: field {name!r} keeps its rows in other files, and reads as zeros where one is gone; name those files")
    plist = item.id.get_create_plist()
    if not item.id.get_storage_size():
        raise ShardError(f"{path}: field {name!r} was created but never written, its rows read as zeros; write the shard again")
    for position in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(position)
        if not h5py.h5z.filter_avail(code):
            label = label.decode(errors="replace") or "no name"
            raise ShardError(f"{path}: field {name!r} needs HDF5 filter {code} ({label}), which is not installed; install it, or use gzip")


def _agree(path: Path, first_path: Path, first: Field | None, found: Field | None) -> None:
    """Refuse a field that differs from the first shard's."""
    if first is None or found is None or first == found:
        return
    what, old, new = ("dtype", first.dtype, found.dtype) if first.shape == found.shape else ("row shape", first.shape, found.shape)
    raise ShardError(f"{path}: field {found.name!r} has {what} {new}, expected {old} as in {first_path}; write all shards alike")
