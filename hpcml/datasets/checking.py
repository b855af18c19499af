"""Reading whole data sets without changing them: verification and statistics, the same report for any number of ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.comm.communicator import Communicator
from hpcml.data.allrows import AllRows
from hpcml.data.contents import Contents, read_contents
from hpcml.data.manifest import NAME, build_manifest, describe_file, load_manifest, names_unique, write_json
from hpcml.data.packed import packed_of
from hpcml.data.shards import find_shards
from hpcml.data.statistics import BLOCK_BYTES, summarise
from hpcml.data.variable import USUAL, Packing
from hpcml.data.verification import Range, check_file
from hpcml.datasets.dealing import Opened, Progress, deal
from hpcml.errors import DataError
from hpcml.train.statistics import field_moments


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found: the files looked at, everything wrong with them, and which manifest they were held against."""

    files: list[str]
    problems: list[str]
    manifest: str | None
    entries: dict[str, Any]


def verify(
    pattern: str,
    comm: Communicator,
    progress: Progress,
    *,
    ranges: Sequence[Range] = (),
    along: str | None = None,
    allow_nan: bool = False,
    manifest: str | None = None,
    packing: Packing = USUAL,
) -> Report:
    """Read every byte of the shards and return everything that is wrong with them, on every rank.

    Args:
        pattern: the shards, as `find_shards` takes it.
        comm: all ranks.
        progress: told of each file.
        ranges: what values must be.
        along: the field whose length is the number of rows.
        allow_nan: do not mind NaN and infinity.
        manifest: path of the manifest; left out, the one beside the shards, if there is one.
        packing: the names that hold rows of variable length.

    Raises:
        DataError: on every rank, if no file is found or the manifest is none.
    """
    plain: dict[str, Any] = {}
    with comm.together():
        if comm.rank == 0:
            paths = find_shards(pattern)
            names_unique(paths)
            beside = Path(manifest) if manifest else paths[0].parent / NAME
            known = load_manifest(beside) if manifest or beside.exists() else None
            plain = {"paths": [str(path) for path in paths], "manifest": str(beside) if known else None, "known": known and known["files"]}
    plain = json.loads(comm.broadcast_bytes(json.dumps(plain).encode()))
    first = _first(Path(plain["paths"][0]), along, packing)

    def check(path: str) -> Mapping[str, Any]:
        known = plain["known"].get(Path(path).name) if plain["known"] else None
        beside = None if path == plain["paths"][0] else first
        findings = check_file(Path(path), beside, known, ranges, along=along, allow_nan=allow_nan, packing=packing)
        return {"problems": findings.problems, "entry": findings.entry}

    found = deal(plain["paths"], check, comm, "checked, file", progress)
    problems = [text for one in found.values() for text in one["problems"]]
    if plain["known"] is not None:
        problems += _membership(pattern, plain["paths"], plain["known"], plain["manifest"])
    entries = {Path(path).name: one["entry"] for path, one in found.items()}
    return Report(plain["paths"], problems, plain["manifest"], entries)


def _first(path: Path, along: str | None, packing: Packing) -> tuple[Path, Contents] | None:
    """Return the first shard's contents, or None where it cannot be read, which its own check will say."""
    try:
        return path, read_contents(path, along, (), packing)
    except DataError:
        return None


def _membership(pattern: str, paths: Sequence[str], known: Mapping[str, Any], manifest: str) -> list[str]:
    """Return a sentence for each file that only the disk, or only the manifest, has."""
    here = {Path(path).name for path in paths}
    extra = [f"{path}: is not in {manifest}" for path in paths if Path(path).name not in known]
    lost = [f"{name}: is in {manifest}, but not on disk" for name in known if name not in here and fnmatch(name, Path(pattern).name)]
    return extra + lost


def write_manifest(pattern: str, along: str | None, comm: Communicator, progress: Progress, packing: Packing = USUAL) -> Path:
    """Write the manifest of shards beside them, and return its path.

    Raises:
        DataError: on every rank, if the shards lie in several folders, or cannot be read or written.
    """
    paths: list[str] = []
    with comm.together():
        if comm.rank == 0:
            found = find_shards(pattern)
            if len({path.parent for path in found}) > 1:
                raise DataError(f"{pattern!r} names files in several folders; write a manifest for each folder by itself")
            paths = [str(path) for path in found]
    paths = json.loads(comm.broadcast_bytes(json.dumps(paths).encode()))
    entries = deal(paths, lambda path: describe_file(Path(path), along, (), packing), comm, "described, file", progress)
    goal = Path(paths[0]).parent / NAME
    with comm.together():
        if comm.rank == 0:
            write_json(goal, build_manifest({Path(path).name: entry for path, entry in entries.items()}))
    return goal


class Entries:
    """Rows whose fields of variable length are their entries, one row after the other: what statistics are made of.

    Args:
        source: the rows as they are stored.
    """

    def __init__(self, source: AllRows) -> None:
        self._source = source

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self._source.rows

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field, of variable length all their entries."""
        found = self._source.read(start, stop)
        for name, (_, dtype) in self._source.contents.fields.items():
            packed = packed_of(dtype)
            if packed is not None:
                found[name] = packed.entries(found[name])
        return found


def statistics(opened: Opened, comm: Communicator, progress: Progress) -> dict[str, Any]:
    """Return the statistics of all fields of numbers as plain data, on every rank, to the same bits for any number of ranks.

    Raises:
        DataError: on every rank, for rows that cannot be read.
    """
    step = opened.contents.block(BLOCK_BYTES)
    root = field_moments(Entries(opened.rows), step, comm, lambda done, total: progress("read, part", done, total))
    return summarise(root, opened.rows.rows, opened.contents)
