"""Other people's files as shards: scanned by all ranks, then written by all ranks, the same bytes for any number of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcml.comm.communicator import Communicator
from hpcml.data.gathering import block_rows
from hpcml.data.importers import ranges
from hpcml.data.importers.assembly import Assembly, Spec, find_parts, join_part, scan_part, text_decorator
from hpcml.data.importers.options import Options
from hpcml.data.journal import Journal, require_room
from hpcml.data.manifest import NAME, describe_file, load_manifest
from hpcml.data.writer import RowWriter
from hpcml.datasets.dealing import Progress, begin, deal_once, finish, kept_or_gone
from hpcml.datasets.rewriting import Made, Wish


@dataclass(frozen=True, slots=True)
class Imported:
    """What was made, and notes for the user."""

    made: Made
    notes: list[str]


def import_sources(sources: Sequence[str], options: Options, goal: Path, wish: Wish, comm: Communicator, progress: Progress) -> Imported:
    """Write the rows of sources as shards part-00000.h5 and so on.

    Raises:
        HpcmlError: on every rank, naming what is wrong; what is finished is kept for the next time.
    """
    plain: dict[str, Any] = {}
    with comm.together():
        if comm.rank == 0:
            specs, attributes, notes = find_parts(sources, options)
            plain = {"specs": specs, "attributes": attributes, "notes": notes, "inputs": [_identity(spec) for spec in specs]}
    plain = json.loads(comm.broadcast_bytes(json.dumps(plain).encode()))
    specs = plain["specs"]
    order = {"tool": "import", "inputs": plain["inputs"], "specs": specs, "options": options.plain(), "range": ranges.RANGE_BYTES}
    journal = Journal(goal, {**order, **wish.plain()})
    if begin(journal, ["part-00000.h5"], comm):
        return Imported(Made(load_manifest(goal / NAME)["files"], True), plain["notes"])
    with kept_or_gone(journal, comm):
        scans = _scan(specs, [entry[0][1] for entry in plain["inputs"]], options, journal, comm, progress)
        with comm.together():
            assembly = Assembly(specs, scans, options)
        with assembly:
            entries = _write(assembly, plain["attributes"], goal, wish, journal, comm, progress)
        finish(journal, entries, comm)
    return Imported(Made(entries, False), plain["notes"])


def _scan(
    specs: Sequence[Spec], sizes: Sequence[int], options: Options, journal: Journal, comm: Communicator, progress: Progress
) -> list[dict[str, Any]]:
    """Return the scan of every part; a large text file is scanned in ranges by several ranks."""
    cuts = [ranges.cut(spec, size) for spec, size in zip(specs, sizes, strict=True)]
    cut = [number for number, parts in enumerate(cuts) if len(parts) > 1]

    def count(name: str) -> Mapping[str, Any]:
        number, part = _places(name)
        return ranges.count(specs[number]["path"], *cuts[number][part])

    counts = deal_once([_name("count", i, k) for i in cut for k in range(len(cuts[i]))], count, journal, comm, "counted, range", progress)
    placed = {i: ranges.place(cuts[i], [counts[_name("count", i, k)] for k in range(len(cuts[i]))]) for i in cut}

    def scan(name: str) -> Mapping[str, Any]:
        number, part = _places(name)
        spec = specs[number]
        return scan_part({**spec, "range": placed[number][part]} if number in placed else spec, options)

    names = [_name("scan", i, k) for i, parts in enumerate(cuts) for k in range(len(parts))]
    scans = deal_once(names, scan, journal, comm, "scanned, part", progress)

    def join(name: str) -> Mapping[str, Any]:
        number, _ = _places(name)
        return join_part(specs[number], [scans[_name("scan", number, k)] for k in range(len(cuts[number]))], options)

    joined = deal_once([_name("join", i, 0) for i in cut], join, journal, comm, "joined, file", progress)
    return [joined[_name("join", i, 0)] if i in placed else scans[_name("scan", i, 0)] for i in range(len(specs))]


def _name(what: str, number: int, part: int) -> str:
    return f"{what}-{number:06d}-{part:05d}"


def _places(name: str) -> tuple[int, int]:
    """Return the numbers of the part and of its range, from a name that `_name` made."""
    _, number, part = name.split("-")
    return int(number), int(part)


def _write(
    assembly: Assembly,
    attributes: Mapping[str, list[str]],
    goal: Path,
    wish: Wish,
    journal: Journal,
    comm: Communicator,
    progress: Progress,
) -> dict[str, Any]:
    row_bytes = sum(_nbytes(shape, dtype) for shape, dtype in assembly.fields.values())
    outputs = {output.name: output for output in wish.cut("part", 0, assembly.rows, row_bytes)}
    with comm.together():
        if comm.rank == 0:
            require_room(goal, assembly.rows * row_bytes * (wish.layout.codec == "none"))
    decorate = text_decorator({**attributes, **assembly.attributes()})
    step = block_rows(row_bytes, wish.layout)

    def write(name: str) -> Mapping[str, Any]:
        output, path = outputs[name], journal.path(name)
        with RowWriter(path, output.stop - output.start, assembly.fields, layout=wish.layout, decorate=decorate) as writer:
            for start in range(output.start, output.stop, step):
                writer.write(start - output.start, assembly.read(start, min(start + step, output.stop)))
        return describe_file(path, next(iter(assembly.fields)))

    return deal_once(list(outputs), write, journal, comm, "written, file", progress)


def _nbytes(shape: tuple[int, ...], dtype: Any) -> int:
    size = dtype.itemsize
    for length in shape:
        size *= length
    return int(size)


def _identity(spec: Mapping[str, Any]) -> list[Any]:
    """Return what says that a source is the same as before; of a block of images, the first and the last."""
    paths = [spec["path"], spec["images"][-1][0]] if "images" in spec else [spec["path"]]
    return [[path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns] for path in paths]
