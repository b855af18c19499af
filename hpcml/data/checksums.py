"""Checksums of a manifest, held against the rows as they are read: a bit that flipped in plain data is found before its rows are used.

Letters: U rows of a block, as the manifest cuts a file. A block is read whole and looked at when the first of its rows is wanted,
once in a run: a file that changes later is refused by its size and time. Cost: one pass of hashing in the first epoch.
Rows of a block that are wanted later wait in memory, as bands of chunks do: entries of sparse rows are cut elsewhere than their blocks.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpcml.data.chunks import Bands, Chunked
from hpcml.data.index import Index, Shard
from hpcml.data.manifest import NAME, find_manifest
from hpcml.data.roads import Landing, Runs, Scratch, deliver, with_places, within
from hpcml.data.rowsum import row_hashes
from hpcml.data.storage import CONTIGUOUS, Stored
from hpcml.errors import ShardError

DIGITS = 16
"""Hexadecimal digits of one hash."""

REMEDY = "`hpcml data verify` says what differs, and with --write makes the manifest anew"


def with_checksums(index: Index, required: bool = False) -> Index:
    """Return the index with the checksums that the manifests beside its shards have.

    Args:
        index: what `index_shards` found.
        required: refuse shards that have none.

    Raises:
        DataError: for a manifest that is damaged.
        ShardError: for a shard that is not the one of its manifest, or has no checksums and must have them.
    """
    manifests = {folder: find_manifest(folder / NAME) for folder in {Path(shard.path).parent for shard in index.shards}}
    shards = []
    for shard in index.shards:
        path = Path(shard.path)
        entry = ((manifests[path.parent] or {}).get("files") or {}).get(path.name)
        if entry is None and required:
            text = "its manifest does not list it" if manifests[path.parent] else f"there is no {NAME} beside it"
            raise ShardError(
                f'{path}: has no checksums, {text}; `hpcml data verify --write` makes them, data.checksums = "auto" goes without'
            )
        shards.append(shard if entry is None else _with(shard, entry, required))
    return dataclasses.replace(index, shards=tuple(shards))


def _with(shard: Shard, entry: dict[str, Any], required: bool) -> Shard:
    """Return a shard with the checksums of its entry in a manifest."""
    # The tools may take a file whose rows of variable length have names of the user's own to have other rows.
    plain = all(stored.variable is None for _, stored in shard.fields)
    for what, found, expected in (("bytes", shard.size, entry["bytes"]), ("rows", shard.rows, entry["rows"])):
        if found != expected and (plain or what == "bytes"):
            raise ShardError(f'{shard.path}: has {found} {what}, its {NAME} says {expected}; {REMEDY}; data.checksums = "off" goes without')
    fields = tuple((name, _hashed(shard.path, name, stored, entry, required)) for name, stored in shard.fields)
    return dataclasses.replace(shard, fields=fields, sha256=str(entry["sha256"]))


def _hashed(path: str, name: str, stored: Stored, entry: dict[str, Any], required: bool) -> Stored:
    """Return how a field is stored with its checksums: for rows of variable length, with those of each of their data sets."""
    if stored.variable is not None:
        parts = tuple((one, _hashed(path, one, part, entry, required)) for one, part in stored.parts)
        return dataclasses.replace(stored, parts=parts)
    found = entry["blocks"].get(name.strip("/"))
    block, listed = (int(entry["block"]), found) if found else entry.get("others", {}).get(name.strip("/"), (1, []))
    hashes = "".join(listed)
    if required and not hashes:
        raise ShardError(f"{path}: field {name!r} has no checksums in {NAME}; {REMEDY}")
    if hashes and len(hashes) != DIGITS * -(-stored.rows // block):
        raise ShardError(f"{path}: field {name!r} has {stored.rows} entries, which is not what {NAME} has checksums of; {REMEDY}")
    return dataclasses.replace(stored, block=int(block), hashes=hashes) if hashes else stored


class Road(Protocol):
    """What brings rows of a field into memory."""

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing."""

    def announce(self, start: int, count: int) -> None:
        """Tell the system that rows will be read soon."""


class Looked:
    """What of a field was found right so far, and the blocks of which rows are still to come; it outlives the road.

    Args:
        path: of the file.
        name: of the field.
        blocks: how many the manifest has of it.
        rest: where blocks wait.
    """

    def __init__(self, path: str, name: str, blocks: int, rest: Bands) -> None:
        self.passed, self.waiting = np.zeros(blocks, np.bool_), set[int]()
        self.turn = threading.Lock()
        self._path, self._name, self._rest = path, name, rest

    def take(self, block: int) -> tuple[np.ndarray | None, int]:
        """Return and forget a block that waits and how many of its rows are still to come; None where it does not, or was dropped."""
        self.waiting.discard(block)
        return self._rest.take((self._path, self._name, block))

    def keep(self, block: int, rows: np.ndarray, left: int) -> None:
        """Have a block wait for as long as there is room."""
        self._rest.keep((self._path, self._name, block), rows, left)
        self.waiting.add(block)


class Checked:
    """A road whose rows are held against their checksums when they come for the first time.

    Args:
        road: the rows as they are wanted.
        bare: the rows with the numbers of the file, by the same road.
        stored: how the field lies in the file, with its checksums.
        name: of the field, under which the manifest hashed it.
        shape: of a row.
        looked: what was found right so far.
        unit: what the numbers of an error count.
    """

    def __init__(
        self, road: Road, bare: Road, stored: Stored, name: str, shape: tuple[int, ...], looked: Looked, unit: str = "rows"
    ) -> None:
        self.road, self.bare, self.stored, self.name, self.shape, self.rows = road, bare, stored, name.strip("/"), shape, stored.rows
        self.dtype, self.looked, self.unit = np.dtype(stored.dtype), looked, unit
        self.passed = looked.passed
        self.row_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._hashes = np.frombuffer(bytes.fromhex(stored.hashes), ">u8")

    def read(self, runs: Runs, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Read runs of rows to their places in the landing.

        Raises:
            OSError: for a read that fails.
            ValueError: for rows that are not those of the manifest, with their address.
        """
        size = self.stored.block
        if not self.looked.waiting and all(self.passed[start // size : -(-stop // size)].all() for start, stop in runs):
            self.road.read(runs, landing, place, scratch)
            return
        for start, stop, part in with_places(runs, place):
            for block in range(start // size, -(-stop // size)):
                first, last = max(start, block * size), min(stop, (block + 1) * size)
                at = within(part, first - start, last - start)
                if self.passed[block] and block not in self.looked.waiting:
                    self.road.read([(first, last)], landing, at, scratch)
                elif last - first == self._rows_of(block):
                    memory = scratch("check", (last - first) * self.row_bytes)
                    deliver(self._pass(block, memory, scratch), landing.array, at, self.stored)
                else:
                    with self.looked.turn:  # of two threads that want parts of a block, one reads it
                        self._read_part(block, first, last, landing, at, scratch)

    def _read_part(self, block: int, first: int, last: int, landing: Landing, place: slice | np.ndarray, scratch: Scratch) -> None:
        """Lay some rows of a block out, and keep the block for the others."""
        rows, left = self.looked.take(block)
        if rows is None and self.passed[block]:
            self.road.read([(first, last)], landing, place, scratch)
            return
        if rows is None:
            left = self._rows_of(block)
            rows = self._pass(block, np.empty(left * self.row_bytes, np.uint8), scratch)
        begin = block * self.stored.block
        deliver(rows[first - begin : last - begin], landing.array, place, self.stored)
        left -= last - first
        if left > 0:
            self.looked.keep(block, rows, left)

    def _rows_of(self, block: int) -> int:
        """Return how many rows a block has."""
        return min(self.stored.block, self.rows - block * self.stored.block)

    def announce(self, start: int, count: int) -> None:
        """Tell the system that rows will be read soon, with those of their blocks that will be looked at."""
        size, stop = self.stored.block, start + count
        if not self.passed[start // size : -(-stop // size)].all():
            start, stop = start // size * size, min(-(-stop // size) * size, self.rows)
        self.road.announce(start, stop - start)

    def _pass(self, block: int, memory: np.ndarray, scratch: Scratch) -> np.ndarray:
        """Return the rows of a block (n, *row) as they are in the file, in memory given as bytes, or refuse them."""
        first, count = block * self.stored.block, self._rows_of(block)
        rows = memory.view(self.dtype).reshape(count, *self.shape)
        self.bare.read([(first, first + count)], Landing(rows), slice(0, count), scratch)
        if int(row_hashes(self.name, rows, scratch).sum(dtype=np.uint64)) != int(self._hashes[block]):
            raise ValueError(f"{self.unit} {first}:{first + count}{self._address(first)} are not those of {NAME}; {REMEDY}")
        self.passed[block] = True
        return rows

    def _address(self, row: int) -> str:
        """Return where in the file a row begins, in words."""
        if self.stored.road == CONTIGUOUS:
            return f" at address {self.stored.offset + row * self.row_bytes}"
        if isinstance(self.bare, Chunked) and self.bare.whole_rows:
            return f" in chunks from address {int(self.bare.table.offsets[row // self.bare.chunk[0]])}"
        return ""
