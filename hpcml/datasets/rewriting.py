"""The same rows in other files: resharding and splitting, with a proof that no row was lost, doubled or changed.

The proof is the sum of row hashes (data/rowsum.py): of the old files, each read once from end to end, and of the new files,
read back from disk. Only when both are equal do the new files get their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.comm.communicator import Communicator
from hpcml.data.allrows import read_rows
from hpcml.data.contents import Contents
from hpcml.data.copying import decorator
from hpcml.data.gathering import (
    UNIT_BYTES,
    Output,
    block_rows,
    cut,
    cut_evenly,
    invert,
    needs_spills,
    read_spills,
    shuffled,
    take_ascending,
    units,
    write_spill,
)
from hpcml.data.index import Shard
from hpcml.data.journal import Journal, require_room
from hpcml.data.layout import Layout, shard_bytes
from hpcml.data.manifest import NAME, describe_file, load_manifest, row_blocks
from hpcml.data.packed import count_entries, packed_of
from hpcml.data.rowsum import RowSum
from hpcml.data.shards import open_file
from hpcml.data.splitting import assign
from hpcml.data.variable import USUAL
from hpcml.data.writer import RowWriter
from hpcml.datasets.dealing import Opened, Progress, begin, deal_once, finish, kept_or_gone
from hpcml.errors import ConfigError, DataError

BUNDLE_FILES, BUNDLE_BYTES = 64, 64 << 20
"""Small files are summed together, up to so many."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a tool made: the entries of its files by name, and whether it was all there before."""

    entries: dict[str, Any]
    before: bool

    @property
    def total(self) -> RowSum:
        """The sum over the rows of all files."""
        whole = RowSum()
        for entry in self.entries.values():
            whole.merge(RowSum.from_plain(entry))
        return whole


@dataclass(frozen=True, slots=True)
class Wish:
    """How new shards shall be: files (0: as rows say), rows in each (0: as fits), layout, and the seed of a global shuffle or None."""

    files: int = 0
    rows: int = 0
    layout: Layout = field(default_factory=Layout)
    seed: int | None = None

    def cut(self, stem: str, start: int, stop: int, row_bytes: int) -> list[Output]:
        """Cut new rows start to stop-1 into files."""
        if self.files:
            return cut_evenly(stem, start, stop, self.files)
        return cut(stem, start, stop, self.rows or max(1, shard_bytes((stop - start) * row_bytes) // max(1, row_bytes)))

    def plain(self) -> dict[str, Any]:
        """Return the wish as plain data, for the journal."""
        keys = self.layout
        return {"files": self.files, "rows": self.rows, "layout": [keys.chunk, keys.codec, keys.level, keys.shuffle], "seed": self.seed}


def reshard(opened: Opened, goal: Path, wish: Wish, comm: Communicator, progress: Progress) -> Made:
    """Write the rows of shards into other shards, in the same order or in a global permutation by the wish's seed.

    Raises:
        HpcmlError: on every rank, if that cannot be done; what is finished is kept for the next time.
    """
    rows = opened.rows.rows
    if wish.files > rows:
        raise _everywhere(ConfigError(f"{wish.files} files for {rows} rows; each file needs a row"))
    order = np.arange(rows, dtype=np.int64) if wish.seed is None else shuffled(rows, wish.seed)
    outputs = wish.cut("part", 0, rows, opened.contents.row_bytes)
    return _rewrite(opened, order, outputs, goal, wish, {"tool": "reshard"}, comm, progress)


def split(
    opened: Opened,
    goal: Path,
    shares: Mapping[str, float],
    by: str | None,
    group: str | None,
    wish: Wish,
    seed: int,
    comm: Communicator,
    progress: Progress,
) -> Made:
    """Write the rows of shards into parts, each row into one; files are named by part.

    Args:
        opened: the shards.
        goal: the folder of the new shards.
        shares: part -> share of the rows.
        by: a field of classes, so that every part has each in the same share; or None.
        group: a field of groups that stay together; or None.
        wish: how the new shards shall be; its seed shuffles rows inside each part.
        seed: of the choice of rows.
        comm: all ranks.
        progress: told of each piece.

    Raises:
        HpcmlError: on every rank, if that cannot be done.
    """
    parts = np.zeros(opened.rows.rows, np.uint8)
    with comm.together():
        if comm.rank == 0:
            labels, groups = (None if name is None else read_codes(opened, name) for name in (by, group))
            parts[:] = assign(len(parts), list(shares.values()), seed, labels, groups)
    comm.broadcast(parts)
    order = np.argsort(parts, kind="stable").astype(np.int64)
    edges = np.concatenate([[0], np.cumsum(np.bincount(parts, minlength=len(shares)))]).tolist()
    outputs: list[Output] = []
    for i, part in enumerate(shares):
        if wish.seed is not None:
            order[edges[i] : edges[i + 1]] = order[edges[i] : edges[i + 1]][shuffled(edges[i + 1] - edges[i], wish.seed + i)]
        outputs += wish.cut(part, edges[i], edges[i + 1], opened.contents.row_bytes)
    told = {"tool": "split", "shares": dict(shares), "by": by, "group": group, "choice": seed}
    return _rewrite(opened, order, outputs, goal, wish, told, comm, progress)


def read_codes(opened: Opened, name: str) -> np.ndarray:
    """Return a field of classes or groups as whole numbers, (N,) int64, equal where values are.

    Raises:
        DataError: if the field is absent (the near name is suggested), or has more than one value a row.
    """
    import difflib

    fields, name = opened.contents.fields, opened.contents.links.get(name, name)
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{opened.first}: field {name!r} is absent; {hint}the fields are {', '.join(map(repr, fields))}")
    if packed_of(fields[name][1]) is not None:
        raise DataError(f"{opened.first}: field {name!r} has rows of variable length; classes and groups are one value a row")
    if fields[name][0]:
        raise DataError(f"{opened.first}: field {name!r} has rows of shape {fields[name][0]}; classes and groups are one value a row")
    values = []
    for shard in opened.rows.shards:
        with open_file(shard.path) as file:
            values.append(read_rows(file, shard.path, name, 0, shard.rows))
    return np.unique(np.concatenate(values), return_inverse=True)[1].astype(np.int64)


def _rewrite(
    opened: Opened,
    order: np.ndarray,
    outputs: Sequence[Output],
    goal: Path,
    wish: Wish,
    told: Mapping[str, Any],
    comm: Communicator,
    progress: Progress,
) -> Made:
    """Write new row i from old row order[i], prove it, and give the files their names."""
    journal = Journal(goal, {**told, **_packing_plain(opened.contents), "inputs": opened.identity(), **wish.plain()})
    spans = {output.name: output for output in outputs}
    if begin(journal, list(spans), comm):
        return Made(load_manifest(goal / NAME)["files"], True)
    with kept_or_gone(journal, comm):
        spills = needs_spills(order, outputs)
        with comm.together():
            if comm.rank == 0:
                require_room(goal, opened.rows.rows * opened.contents.row_bytes * ((wish.layout.codec == "none") + spills))
        before = _sum_inputs(opened, journal, comm, progress)
        if spills:
            entries = _by_spills(opened, order, spans, wish.layout, journal, comm, progress)
        else:
            entries = _directly(opened, order, spans, wish.layout, journal, comm, progress)
        made = Made(entries, False)
        if made.total.plain() != before.plain():
            text = f"rows before and after differ: {before.plain()} became {made.total.plain()}"
            raise _everywhere(DataError(f"{text}; nothing was published, {journal.folder} is kept"))
        finish(journal, entries, comm)
    return made


def _sum_inputs(opened: Opened, journal: Journal, comm: Communicator, progress: Progress) -> RowSum:
    """Return the sum over all old rows, each file read by itself from end to end."""
    pieces = {f"sources-{i:05d}": shards for i, shards in enumerate(_bundled(opened.rows.shards))}

    def sum_files(name: str) -> Mapping[str, Any]:
        whole, fields = RowSum(), opened.contents.fields
        for shard in pieces[name]:
            with open_file(shard.path) as file:
                chunks = [getattr(file[field], "chunks", None) for field in fields]  # each file's own; groups have none
                own = replace(opened.contents, rows=shard.rows, chunk=max((one[0] for one in chunks if one), default=0))
                for start, stop in row_blocks(own):
                    whole.add({field: read_rows(file, shard.path, field, start, stop, kind) for field, (_, kind) in fields.items()})
        return whole.plain()

    whole = RowSum()
    for found in deal_once(list(pieces), sum_files, journal, comm, "rows summed, piece", progress).values():
        whole.merge(RowSum.from_plain(found))
    return whole


def _bundled(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Cut shards into pieces of work: a note of a finished piece costs two writes to disk, more than reading a small file."""
    bundles: list[list[Shard]] = []
    left = 0
    for shard in shards:
        if not bundles or len(bundles[-1]) == BUNDLE_FILES or shard.size > left:
            bundles.append([])
            left = BUNDLE_BYTES
        bundles[-1].append(shard)
        left -= shard.size
    return bundles


def _directly(
    opened: Opened, order: np.ndarray, spans: Mapping[str, Output], layout: Layout, journal: Journal, comm: Communicator, progress: Progress
) -> dict[str, Any]:
    contents = opened.contents
    block = contents.block(block_rows(contents.row_bytes, layout) * contents.row_bytes)
    along = next(name for name in contents.fields)

    def write(name: str) -> Mapping[str, Any]:
        output, path = spans[name], journal.path(name)
        decorate = decorator(opened.first, contents)
        rows, entries = output.stop - output.start, opened.rows.entries(order[output.start : output.stop])
        with RowWriter(path, rows, contents.fields, layout=layout, decorate=decorate, entries=entries) as writer:
            for position, arrays in take_ascending(opened.rows, order[output.start : output.stop], block):
                writer.write(position, arrays)
        return describe_file(path, along, contents.common, contents.packing)

    return deal_once(list(spans), write, journal, comm, "written, file", progress)


def _by_spills(
    opened: Opened, order: np.ndarray, spans: Mapping[str, Output], layout: Layout, journal: Journal, comm: Communicator, progress: Progress
) -> dict[str, Any]:
    contents = opened.contents
    inverse = invert(order)
    cuts = {f"spill-{i:05d}.h5": unit for i, unit in enumerate(units(len(order), contents.block(UNIT_BYTES)))}
    along = next(name for name in contents.fields)

    def spill(name: str) -> Mapping[str, Any]:
        write_spill(opened.rows, cuts[name], inverse, contents.fields, journal.path(name))
        return {"bytes": journal.path(name).stat().st_size}

    def write(name: str) -> Mapping[str, Any]:
        output, path = spans[name], journal.path(name)
        arrays = read_spills([journal.path(cut) for cut in cuts], list(cuts.values()), inverse, output, contents.fields)
        decorate = decorator(opened.first, contents)
        rows, entries = output.stop - output.start, count_entries(contents.fields, arrays)
        with RowWriter(path, rows, contents.fields, layout=layout, decorate=decorate, entries=entries) as writer:
            writer.write(0, arrays)
        return describe_file(path, along, contents.common, contents.packing)

    deal_once(list(cuts), spill, journal, comm, "spilled, unit", progress)
    return deal_once(list(spans), write, journal, comm, "written, file", progress)


def _packing_plain(contents: Contents) -> dict[str, Any]:
    """Return the names that hold rows of variable length for the journal, nothing where they are the usual ones."""
    return {} if contents.packing.kinds == USUAL.kinds else {"packing": contents.packing.kinds}


def _everywhere(error: Any) -> Any:
    error.everywhere = True
    return error
