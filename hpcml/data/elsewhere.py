"""Rows that a file takes from other files, virtual or external: found, and refused where HDF5 would make numbers up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.errors import ShardError

UNLIMITED = 2**64 - 1
"""HDF5's number for "as many as there are"."""


@dataclass(frozen=True, slots=True)
class Source:
    """Another file that holds rows of a data set, with the size and time by which a later change is noticed."""

    path: str
    size: int
    mtime_ns: int


def linked_source(path: Path, dataset: Any) -> Source | None:
    """Return the file in which a data set lies where an external link led out of the one at `path`, else None.

    The addresses of such a data set say nothing about the bytes of `path`.
    """
    home = dataset.file.filename
    return None if home == str(path) or os.path.samefile(home, path) else _source(path, dataset, home)


def external_folder(path: Path, names: list[str]) -> str:
    """Return the folder in which HDF5 shall look for external files: the shard's own where they all stand beside it, else none."""
    return str(path.parent) if all((path.parent / name).exists() for name in names) else ""


def external_sources(path: Path, dataset: Any) -> tuple[Source, ...]:
    """Return the files of an external data set; HDF5 would read zeros where one is short."""
    folder = external_folder(path, [name for name, _, _ in dataset.external])
    sources, left = [], int(dataset.size) * dataset.dtype.itemsize
    for name, offset, size in dataset.external:
        source = _source(path, dataset, os.path.join(folder, name))
        need = min(int(size), left)
        if source.size < offset + need:
            text = f"holds {source.size} bytes of the {offset + need} it should, HDF5 would read zeros"
            raise ShardError(f"{path}: field {dataset.name.lstrip('/')!r}: {source.path} {text}; copy it again")
        left -= need
        sources.append(source)
    return tuple(sources)


def virtual_sources(path: Path, dataset: Any, look: Callable[[Path, Any], Any]) -> tuple[Source, ...]:
    """Return the files of a virtual data set, each looked at by `look`; HDF5 would read fill values where one is gone."""
    import h5py

    name, mapped, sources = dataset.name.lstrip("/"), np.zeros(dataset.shape[:1], np.int64), dict[str, Source]()
    for part in dataset.virtual_sources():
        grows = "%b" in part.file_name
        points = int(np.prod(part.vspace.get_regular_hyperslab()[3])) if grows else int(part.vspace.get_select_npoints())
        _add_mapped(mapped, part.vspace, dataset.size)
        for file_name in _named(path, dataset, part):
            beside = path.parent / file_name
            place = path if file_name == "." else beside if beside.exists() else Path(file_name)
            source = _source(path, dataset, str(place))
            with h5py.File(place, "r", locking=False) as file:
                there = file.get(part.dset_name)
                if not isinstance(there, h5py.Dataset) or not _covers(there.shape, part, points):
                    raise ShardError(
                        f"{path}: field {name!r} is virtual over {place}, whose {part.dset_name!r} is not as it was; mend that file"
                    )
                if there.file.filename == dataset.file.filename and there.name == dataset.name:
                    raise ShardError(f"{path}: field {name!r} is virtual over itself; write the shard again")
                below = look(place, there).sources
            sources.update({one.path: one for one in (source, *below)})
    each = dataset.size // len(mapped)
    if (mapped < each).any():
        text = f"{np.maximum(each - mapped, 0).sum()} of {dataset.size} numbers have no source, they read as {dataset.fillvalue}"
        raise ShardError(f"{path}: field {name!r} is virtual, and {text}; write the shard again")
    return tuple(sources.values())


def _add_mapped(mapped: np.ndarray, space: Any, size: int) -> None:
    """Add to each row of a virtual data set of `size` numbers how many a part of it brings; rows brought twice hide no row without."""
    from h5py import h5s

    rows = len(mapped)
    if space.get_select_type() == h5s.SEL_ALL:
        mapped += size // rows
    elif space.is_regular_hyperslab():
        start, stride, count, block = space.get_regular_hyperslab()
        each = int(np.prod(count[1:], dtype=np.int64) * np.prod(block[1:], dtype=np.int64))
        for first in range(start[0], rows, max(1, stride[0]))[: count[0] if count[0] < rows else rows]:
            mapped[first : first + min(block[0], rows)] += each
    else:
        for low, high in space.get_select_hyper_blocklist():
            mapped[int(low[0]) : int(high[0]) + 1] += int(np.prod(high[1:] - low[1:] + 1, dtype=np.int64))


def _named(path: Path, dataset: Any, part: Any) -> list[str]:
    """Return the files of a part of a virtual data set: the one that it names, or those that a "%b" in the name numbers from 0 on.

    HDF5 ends such a data set before the first number that is absent, and says nothing of the files behind it.
    """
    if "%b" not in part.file_name:
        return [part.file_name]
    name = dataset.name.lstrip("/")
    first, stride, count, block = part.vspace.get_regular_hyperslab()
    growing = [axis for axis, n in enumerate(count) if n == UNLIMITED]
    if growing != [0] or Path(part.file_name).name.count("%b") != 1 or "%b" in part.dset_name or stride[0] != block[0] or first[0]:
        text = f"by a pattern ({part.file_name}, {part.dset_name}) that is not one file after the other along the rows"
        raise ShardError(f"{path}: field {name!r} is virtual over files named {text}; name those files")
    files = -(-dataset.shape[0] // block[0])
    head, tail = part.file_name.split("%b")
    pattern = re.compile("([0-9]+)".join(map(re.escape, Path(part.file_name).name.split("%b"))))
    folder = (path.parent / part.file_name).parent
    behind = sorted(int(found[1]) for one in folder.iterdir() if (found := pattern.fullmatch(one.name)) and int(found[1]) >= files)
    if behind or not files:
        text = f"{head}{files}{tail} is absent" + (f", though {head}{behind[0]}{tail} is there" if behind else "")
        raise ShardError(
            f"{path}: field {name!r} is virtual over files named {part.file_name}: {text}; HDF5 would leave rows out, copy it back"
        )
    return [f"{head}{number}{tail}" for number in range(files)]


def _covers(shape: tuple[int, ...], part: Any, points: int) -> bool:
    """Return whether a source of this shape has all `points` that a part of a virtual data set takes from it."""
    from h5py import h5s

    if part.src_space.get_select_type() == h5s.SEL_ALL:
        return int(np.prod(shape, dtype=np.int64)) == points
    last = part.src_space.get_select_bounds()[1]
    return len(last) == len(shape) and all(at < n for at, n in zip(last, shape, strict=True))


def _source(path: Path, dataset: Any, place: str) -> Source:
    """Return the entry of another file, or refuse what is not there."""
    try:
        status = os.stat(place)
    except OSError as error:
        text = f"field {dataset.name.lstrip('/')!r} keeps its rows in other files, and {place} cannot be found"
        raise ShardError(f"{path}: {text}, HDF5 would read zeros; copy it back ({error.strerror})") from error
    return Source(os.path.abspath(place), status.st_size, status.st_mtime_ns)
