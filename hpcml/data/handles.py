"""Open shards: a few at a time, each process its own, and never one that changed behind our back."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hpcml.data.absent import Refusing
from hpcml.data.checksums import Checked, Looked
from hpcml.data.chunks import Bands, Chunked
from hpcml.data.index import Field, Shard
from hpcml.data.openfile import OpenFile
from hpcml.data.roads import Contiguous, Landing, Library, Runs, Scratch
from hpcml.data.shards import find_dataset, open_file
from hpcml.data.spread import Spread
from hpcml.data.storage import CHUNKED, CONTIGUOUS, Stored, Variable, look, require_filters
from hpcml.data.tables import ChunkTable
from hpcml.errors import DataError, ShardError

OPEN_AT_ONCE = 160
"""Files a process keeps open: far under the usual limit of 1024, and more than two windows of blocks touch, one read and one announced."""

RECHECK_SECONDS = 1.0
"""How long an open file is trusted before its size and time are looked at again; a look costs a parallel file system about 1 ms."""

Road = Contiguous | Chunked | Library | Spread | Checked | Refusing
Made = TypeVar("Made")


class Handles:
    """Open shards of one process, the least recently used closed first; any thread may read at any time.

    A handle that crosses a fork shares its file and HDF5's locks with the parent, so that reads hang or return
    another row: a child that finds open handles is refused. Handles not yet opened cross a fork without harm.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Shard] = OrderedDict()
        self._bands, self._free = Bands(), list[Scratch]()
        self._pid = os.getpid()
        self._trusted: set[Any] = set()
        self._used: dict[str, Shard] = {}
        self._renew()
        self.bytes_read = self.hints = 0

    def __len__(self) -> int:
        """Return how many files are open."""
        return len(self._open)

    def check_process(self) -> None:
        """Raise ShardError in a process that inherited open handles by a fork."""
        if self._pid == os.getpid():
            return
        if self._open:
            path = next(iter(self._open))
            raise ShardError(
                f"{path}: was opened by process {self._pid} and is used by its fork {os.getpid()};"
                " open the data set in the child, or read with threads"
            )
        self._pid = os.getpid()
        # A thread of the parent may have held a lock at the fork; in the child nobody would give it back.
        self._renew()

    def read(self, shard: Shard, field: Field, runs: Runs, landing: Landing, place: slice | np.ndarray) -> None:
        """Read runs of rows of a field (one data set) of a shard to their places in the landing.

        Raises:
            ShardError: for a changed file or a block that cannot be read, naming file, field, rows and address.
            DataError: for a row whose number stands for no value.
        """
        try:
            road, scratch = self._road(shard, field, runs[0][0]), self._borrow()
            road.read(runs, landing, place, scratch)
            self._free.append(scratch)
            self._used[shard.path] = shard
        except DataError:
            raise
        except (OSError, RuntimeError, ValueError, OverflowError, MemoryError) as error:  # damaged metadata may name any number
            where = f"{shard.path}: field {field.name!r}, rows {runs[0][0]}:{runs[-1][1]}"
            raise ShardError(f"{where} cannot be read; write or copy the shard again ({error})") from error

    def announce(self, shard: Shard, field: Field, start: int, count: int) -> None:
        """Tell the system that rows of a field (one data set) will be read soon; what is wrong with them, the read will say."""
        with contextlib.suppress(ShardError, OSError, RuntimeError, ValueError, OverflowError, MemoryError):
            self._road(shard, field, start).announce(start, count)

    def refuse_changed(self) -> None:
        """Look once more at every file that was read since the last look.

        Raises:
            ShardError: for a file of another size or time, or whose name another file took while it was open here.
        """
        with self._lock:
            used, self._used = self._used, {}
            for path, shard in used.items():
                refuse_changed(shard)
                held = self._open.get(path)
                if held is not None and not os.path.samestat(os.fstat(held.file.fd), os.stat(path)):
                    raise ShardError(
                        f"{path}: another file took its name since it was opened; start again so that all ranks see the new file"
                    )

    def close(self) -> None:
        """Close every file as soon as no thread reads from it; the next read opens what it needs again."""
        with self._lock:
            self._open.clear()
            self._bands = Bands()

    def _borrow(self) -> Scratch:
        """Return memory that no other thread uses now; it outlives the thread, so that an epoch's new threads find it again."""
        try:
            return self._free.pop()
        except IndexError:
            return Scratch()

    def _renew(self) -> None:
        self._lock, self._turn, self._counting = threading.Lock(), threading.Lock(), threading.Lock()
        self._rest, self._looked = Bands(), dict[tuple[str, str], Looked]()

    def _count(self, nbytes: int) -> None:
        with self._counting:
            self.bytes_read += nbytes

    def _hint(self) -> None:
        self.hints += 1

    def _road(self, shard: Shard, field: Field, row: int) -> Road:
        """Return the road to a field of which a row is wanted, opening the file where it is not open."""
        with self._lock:
            held, now = self._open.get(shard.path), time.monotonic()
            if held is None or now - held.checked > RECHECK_SECONDS:
                refuse_changed(shard)
                if held is None:
                    held = self._open[shard.path] = self._opened(shard)
                    while len(self._open) > OPEN_AT_ONCE:
                        self._open.popitem(last=False)
                held.checked = now
            self._open.move_to_end(shard.path)
            if field.name not in held.roads:
                shown = held
                held.roads[field.name] = self._roomy(lambda: self._make(shown, shard, field, row))
            return held.roads[field.name]

    def _opened(self, shard: Shard) -> _Shard:
        """Open a file for positioned reads."""
        try:
            return self._roomy(lambda: _Shard(OpenFile(shard.path, self._hint)))
        except OSError as error:
            raise _cannot_open(shard.path, error) from error

    def _roomy(self, make: Callable[[], Made]) -> Made:
        """Return what opens a file; where the process has too many open, give up half of ours and try once more."""
        try:
            return make()
        except OSError as error:
            reasons = (error, error.__cause__)
            if not self._open or all(getattr(reason, "errno", None) != errno.EMFILE for reason in reasons):
                raise
            for _ in range(-(-len(self._open) // 2)):
                self._open.popitem(last=False)
        return make()

    def _make(self, held: _Shard, shard: Shard, field: Field, row: int) -> Road:
        """Make the road to a field, checked where a manifest knows its rows."""
        stored = dict(shard.fields).get(field.name) or look(Path(shard.path), held.dataset(shard.path, field.name))
        if stored.variable is not None:
            return self._spread(held, shard, field, stored, stored.variable)
        return self._checked(held, shard, field, stored, row=row)

    def _checked(
        self, held: _Shard, shard: Shard, field: Field, stored: Stored, unit: str = "rows", row: int = 0
    ) -> Contiguous | Chunked | Library | Checked | Refusing:
        """Make the road to a data set of which a row is wanted, held against its checksums where a manifest has them."""
        if stored.refuses:
            road = self._checked(held, shard, field, dataclasses.replace(stored, refuses=False, fills=(), valid=()), unit, row)
            return Refusing(road, stored, f"{shard.path}: field {field.name!r}", field.shape, "row" if unit == "rows" else "entry")
        road = self._plain(held, shard, field, stored, row)
        if not stored.hashes:
            return road
        numbers = dataclasses.replace(stored, scale=1.0, shift=0.0, fills=())
        bare = road if stored.is_plain else self._plain(held, shard, field, numbers, row)
        blocks = -(-stored.rows // stored.block)
        looked = self._looked.setdefault((shard.path, field.name), Looked(shard.path, field.name, blocks, self._rest))
        return Checked(road, bare, stored, field.name, field.shape, looked, unit)

    def _spread(self, held: _Shard, shard: Shard, field: Field, stored: Stored, variable: Variable) -> Spread:
        """Make the road to rows of variable length, out of the roads to the data sets that hold them."""
        inner = {
            name: self._checked(
                held, shard, Field(name, field.shape[1:] if name == variable.values else (), part.dtype), part, f"{name!r}, entries"
            )
            for name, part in stored.parts
        }
        return Spread(field, stored, variable, shard.rows, inner)

    def _plain(self, held: _Shard, shard: Shard, field: Field, stored: Stored, row: int = 0) -> Contiguous | Chunked | Library:
        """Make the road to a data set whose rows have one length, and of which a row is wanted."""
        if stored.road not in (CONTIGUOUS, CHUNKED):
            dataset = held.dataset(shard.path, field.name)
            require_filters(Path(shard.path), dataset)
            return Library(dataset, held.hdf5, stored, self._count, self._turn)
        plain = Contiguous(held.file, field, stored, self._count)
        if stored.road == CONTIGUOUS:
            return plain
        with self._turn:
            if stored.table:
                table = ChunkTable.from_text(stored.table, (stored.rows, *field.shape), stored.chunk)
            else:
                table = ChunkTable.of(held.dataset(shard.path, field.name))
            road = Chunked(plain, stored.rows, table, self._bands, field.name)
            if (road.undo.filters, road.plain.stored.dtype) in self._trusted:
                return road
            dataset = held.dataset(shard.path, field.name)
            if self._agrees(road, dataset, row):
                return road
        return Library(dataset, held.hdf5, stored, self._count, self._turn)

    def _agrees(self, road: Chunked, dataset: Any, row: int) -> bool:
        """Return whether the chunk of a wanted row decoded here is what h5py makes of it: asked once a chain of filters and dtype."""
        chain = road.undo.filters, road.plain.stored.dtype
        first = row // road.chunk[0] * road.chunk[0]
        try:
            theirs = dataset[first : first + 1]
            ours = road.sample(row)
        except (OSError, RuntimeError, ValueError):
            return True  # damaged, or a filter that h5py lacks: the read itself will say so
        same: bool = ours.tobytes() == theirs.tobytes() or not road.plain.stored.is_plain
        self._trusted |= {chain} if same else set()
        return same


class _Shard:
    """What is open of one file: a descriptor, the roads made so far, and HDF5's handle where one was needed."""

    def __init__(self, file: OpenFile) -> None:
        self.file, self.checked = file, 0.0
        self.roads: dict[str, Road] = {}
        self.hdf5: Any = None

    def dataset(self, path: str, name: str) -> Any:
        """Return the h5py data set of a field. It closes with the last road that holds it."""
        self.hdf5 = self.hdf5 or open_file(path)
        try:
            found = find_dataset(Path(path), self.hdf5, name)
        except (KeyError, OSError, RuntimeError) as error:
            raise ShardError(f"{path}: field {name!r} cannot be opened; write or copy the shard again ({error})") from error
        if found is None:
            raise ShardError(f"{path}: field {name!r} cannot be opened; write or copy the shard again")
        return found


def describe(shard: Shard, field: Field) -> Stored:
    """Return how a field lies in a shard and by which road it is read, with the reason; opens the file where the index does not say.

    Raises:
        ShardError: for a file that cannot be read.
    """
    known = dict(shard.fields).get(field.name)
    return known or look(Path(shard.path), _Shard(OpenFile(shard.path)).dataset(shard.path, field.name))


def refuse_changed(shard: Shard) -> None:
    """Raise ShardError where a file, or one that it takes rows from, is gone or has another size or time than the index says."""
    for path, size, time_ns in [
        (shard.path, shard.size, shard.mtime_ns),
        *((source.path, source.size, source.mtime_ns) for source in shard.sources),
    ]:
        try:
            status = os.stat(path)
        except OSError as error:
            raise ShardError(f"{path}: was indexed but cannot be found any more; copy the shard back ({error})") from error
        if (status.st_size, status.st_mtime_ns) != (size, time_ns):
            raise ShardError(
                f"{path}: changed since it was indexed: {status.st_size} bytes written at {status.st_mtime_ns} ns,"
                f" expected {size} bytes written at {time_ns} ns; start again so that all ranks see the new file"
            )


def _cannot_open(path: str, error: OSError) -> ShardError:
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return ShardError(f"{path}: cannot be opened, this process has as many files open as it may ({limit}); raise it with `ulimit -n`")
    return ShardError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions")
