"""Tools that write or read whole data sets, the work dealt out to ranks; the same files for any number of ranks.

Every piece of work makes one file, whole or not at all, and is noted when it is done: a tool that was killed goes on
where it was. Ranks meet after each piece, so an error on one rank ends the tool on all, soon and with one message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcml.comm.communicator import Communicator
from hpcml.data.allrows import AllRows
from hpcml.data.contents import Contents, read_contents, require_alike
from hpcml.data.index import Shard
from hpcml.data.journal import Journal
from hpcml.data.manifest import build_manifest
from hpcml.data.shards import find_shards
from hpcml.data.variable import USUAL, Packing
from hpcml.errors import HpcmlError

Progress = Callable[[str, int, int], None]
"""Called on rank 0 with (what, pieces done, pieces in all)."""

Piece = Callable[[str], Mapping[str, Any]]
"""Does one named piece of work and returns plain data about it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Shards, looked into by rank 0 alone: their rows, the path of the first, and notes for the user."""

    rows: AllRows
    notes: tuple[str, ...]

    @property
    def contents(self) -> Contents:
        """What the first shard holds."""
        return self.rows.contents

    @property
    def first(self) -> Path:
        """The first file."""
        return Path(self.rows.shards[0].path)

    def identity(self) -> list[list[Any]]:
        """Return what says that the shards are the same ones as before: path, size and time of each."""
        return [[shard.path, shard.size, shard.mtime_ns] for shard in self.rows.shards]


def open_all(pattern: str | Sequence[str], along: str | None, comm: Communicator, packing: Packing = USUAL) -> Opened:
    """Find shards and return all their row fields as one row space.

    Args:
        pattern: as `find_shards` takes it.
        along: the field whose length is the number of rows.
        comm: all ranks.
        packing: the names that hold rows of variable length.

    Raises:
        ShardError: on every rank, for shards that cannot be read or are not alike.
    """
    found: dict[str, Any] = {}
    with comm.together():
        if comm.rank == 0:
            found = _look(find_shards(pattern), along, packing)
    found = json.loads(comm.broadcast_bytes(json.dumps(found).encode()))
    shards = [Shard(*shard) for shard in found["shards"]]
    with comm.together():
        rows = AllRows(shards, read_contents(shards[0].path, along, found["common"], packing))
    return Opened(rows, tuple(found["notes"]))


def _look(paths: Sequence[Path], along: str | None, packing: Packing) -> dict[str, Any]:
    """Return shards, the names of data sets without rows, and notes, as plain data."""
    found = {path: read_contents(path, along, (), packing) for path in paths}
    # A data set that has rows in one shard and none in another has none: its length was that shard's by chance.
    common = sorted({name for contents in found.values() for name in contents.common})
    for path, contents in found.items():
        if set(common) != set(contents.common):
            found[path] = read_contents(path, along, common, packing)
    first = found[paths[0]]
    shards, notes = [], [f"attribute {name!r} points to objects and is left out" for name in first.references]
    notes += [
        f"{name!r} holds rows of variable length ({', '.join(held)}), but not {first.rows:,} of them: it goes into every file as it is"
        for name, held in first.variable.items()
        if name not in first.fields
    ]
    for path, contents in found.items():
        status = path.stat()
        require_alike(path, contents, paths[0], first)
        shards.append([str(path), contents.rows, status.st_size, status.st_mtime_ns])
        if contents.attributes != first.attributes:
            pairs = contents.attributes.items() ^ first.attributes.items()
            notes.append(f"attribute {min(name for name, _ in pairs)!r} in {path} is not the one in {paths[0]}, which is kept")
    return {"shards": shards, "common": common, "notes": notes}


def deal(names: Sequence[str], piece: Piece, comm: Communicator, what: str, progress: Progress) -> dict[str, dict[str, Any]]:
    """Do every named piece of work once, on some rank, and return what each gave, in the order of the names, on every rank.

    Raises:
        HpcmlError: on every rank, if a piece fails on any.
    """
    mine: dict[str, Any] = {}
    for first in range(0, len(names), comm.size):
        with comm.together():
            if first + comm.rank < len(names):
                name = names[first + comm.rank]
                mine[name] = piece(name)
        if comm.rank == 0:
            progress(what, min(first + comm.size, len(names)), len(names))
    found: dict[str, Any] = {}
    for text in comm.all_gather_bytes(json.dumps(mine).encode()):
        found.update(json.loads(text))
    return {name: found[name] for name in names}


def deal_once(names: Sequence[str], piece: Piece, journal: Journal, comm: Communicator, what: str, progress: Progress) -> dict[str, Any]:
    """Do as `deal`, but keep what the journal says is finished and whole, and note what is done.

    Raises:
        HpcmlError: on every rank, if a piece fails on any.
    """
    kept = deal(names, lambda name: {"kept": journal.finished(name)}, comm, f"looking for {what} done before", _quiet)
    left = [name for name in names if kept[name]["kept"] is None]

    def noted(name: str) -> Mapping[str, Any]:
        result = piece(name)
        journal.record(name, result)
        return result

    new = deal(left, noted, comm, what, lambda text, done, _: progress(text, len(names) - len(left) + done, len(names)))
    return {name: new[name] if name in new else kept[name]["kept"] for name in names}


def _quiet(what: str, done: int, total: int) -> None:
    """Say nothing."""


def begin(journal: Journal, names: Sequence[str], comm: Communicator) -> bool:
    """Start or go on with the journal's work; return, on every rank, whether it was finished before.

    Raises:
        DataError: on every rank, if the goal holds something else.
    """
    done = False
    with comm.together():
        if comm.rank == 0:
            done = journal.begin(names)
    return comm.broadcast_bytes(b"1" if done else b"0") == b"1"


@contextmanager
def kept_or_gone(journal: Journal, comm: Communicator) -> Iterator[None]:
    """Leave no folder behind where the work ends by an error before any of it is finished."""
    try:
        yield
    except HpcmlError:
        if comm.rank == 0:
            journal.abandon()
        raise


def finish(journal: Journal, entries: Mapping[str, Any], comm: Communicator) -> None:
    """Move the finished files to their goal and write the manifest.

    Raises:
        DataError: on every rank, if that cannot be done.
    """
    with comm.together():
        if comm.rank == 0:
            journal.publish(list(entries), build_manifest(entries))
