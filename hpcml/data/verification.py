"""Looking at every byte of a shard: can it be read, is it what the manifest says, are its values usable.

Everything wrong is returned as a sentence that names the data set and the rows; nothing is raised but for programming errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.allrows import read_rows
from hpcml.data.contents import Contents, read_contents, require_alike
from hpcml.data.manifest import blocks_plain, file_sha256, hash_other, row_blocks
from hpcml.data.packed import packed_of
from hpcml.data.rowsum import RowSum
from hpcml.data.shards import open_file
from hpcml.data.variable import SPARSE, USUAL, Packing, check_offsets
from hpcml.errors import DataError, ShardError

ENTRIES = 1 << 20
"""Entries of rows of variable length that are read at once."""

NAMED = 3
"""Rows or spans that a sentence names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Range:
    """What the values of a field must be: low <= value <= high."""

    name: str
    low: float
    high: float


def parse_range(text: str) -> Range:
    """Return the range that a text such as "y=0:9" or "x=-1:" names; an end left out is open.

    Raises:
        DataError: for a text of another form.
    """
    name, equals, ends = text.partition("=")
    low, colon, high = ends.partition(":")
    try:
        made = Range(name.strip(), float(low or "-inf"), float(high or "inf"))
    except ValueError:
        made = None
    if not (made and equals and colon and made.name):
        raise DataError(f"range {text!r}: expected FIELD=LOW:HIGH, such as y=0:9 or x=-1:")
    return made


@dataclass(slots=True)
class Findings:
    """What is wrong with one file, and what it holds where it could be read to the end."""

    problems: list[str] = field(default_factory=list)
    entry: dict[str, Any] | None = None


def check_file(
    path: Path,
    first: tuple[Path, Contents] | None,
    known: Mapping[str, Any] | None,
    ranges: Sequence[Range] = (),
    *,
    along: str | None = None,
    allow_nan: bool = False,
    packing: Packing = USUAL,
) -> Findings:
    """Read one shard whole and return what is wrong with it.

    Args:
        path: the shard.
        first: another shard and its contents, which this one must be like; None for the first one.
        known: its entry in a manifest, or None.
        ranges: what the values of fields must be.
        along: the field whose length is the number of rows.
        allow_nan: do not mind NaN and infinity.
        packing: the names that hold rows of variable length.
    """
    findings = Findings()
    try:
        contents = read_contents(path, along, () if first is None else first[1].common, packing)
        if first is not None:
            require_alike(path, contents, *first)
        ranges = [Range(contents.links.get(one.name, one.name), one.low, one.high) for one in ranges]
        findings.problems += [
            f"{path}: field {one.name!r} of --range is absent; it has {', '.join(contents.fields)}"
            for one in ranges
            if one.name not in contents.fields
        ]
        _check_rows(path, contents, known, ranges, allow_nan, findings)
        _check_variable(path, contents, allow_nan, findings)
        if known is not None:
            _check_bytes(path, known, findings)
    except DataError as error:
        findings.problems.append(str(error))
    return findings


def _check_rows(
    path: Path, contents: Contents, known: Mapping[str, Any] | None, ranges: Sequence[Range], allow_nan: bool, findings: Findings
) -> None:
    """Read every block of every field; note what cannot be read, what is out of range, and what the manifest does not know."""
    total, blocks = RowSum(), {name: list[str]() for name in contents.fields}
    bad: dict[tuple[str, str], list[int]] = {}
    whole = True
    with open_file(path) as file:
        for start, stop in row_blocks(contents):
            arrays = {}
            for name, (_, kind) in contents.fields.items():
                try:
                    arrays[name] = read_rows(file, path, name, start, stop, kind)
                except ShardError:
                    whole = False
                    findings.problems += _unreadable(file, path, name, start, stop, kind)
            for name, values in arrays.items():
                for what, rows in _bad_rows(name, values, ranges, allow_nan):
                    bad.setdefault((name, what), []).extend((rows + start).tolist())
            one = RowSum()
            one.add(arrays)
            for name, value in one.plain()["fields"].items():
                blocks[name].append(value)
            total.merge(one)
        others = {name: hashes for name in contents.others if (hashes := _hash_other(file, path, name, contents, findings))}
    findings.problems += [f"{path}: field {name!r} {what} in {_name_rows(rows)}" for (name, what), rows in bad.items()]
    if whole and len(others) == len(contents.others):
        findings.entry = {"bytes": path.stat().st_size, "sha256": "", **total.plain(), **blocks_plain(contents, blocks, others)}
    if findings.entry is not None and known is not None:
        _compare(path, contents, findings.entry, known, findings)


def _hash_other(file: Any, path: Path, name: str, contents: Contents, findings: Findings) -> list[str]:
    """Return the hashes of an array that is no row field, or note where it cannot be read and return none."""
    try:
        return hash_other(file, path, name, contents)
    except ShardError:
        findings.problems += _unreadable(file, path, name, 0, contents.others[name][2])
        return []


def _check_variable(path: Path, contents: Contents, allow_nan: bool, findings: Findings) -> None:
    """Read every entry of rows of variable length; note offsets that cannot be, and entries that cannot be read or are not finite."""
    with open_file(path) as file:
        for name, held in contents.variable.items():
            group, where = file[name], f"{path}: field {name!r}"
            try:
                rows, _, _ = check_offsets(where, group[held[-1]], group[held[0]])
                if rows != contents.rows:
                    findings.problems.append(f"{where} has {rows} rows, the file's other fields {contents.rows}")
            except ShardError as error:
                findings.problems.append(str(error))
            for one in held[:-1]:
                whole = f"{name}/{one}".lstrip("/")
                for start in range(0, len(group[one]), ENTRIES):
                    stop = min(start + ENTRIES, len(group[one]))
                    inside = _columns(contents, name, whole) if one == held[1] and len(held) == len(SPARSE) else ()
                    try:
                        bad = _bad_rows(whole, read_rows(file, path, whole, start, stop), inside, allow_nan)
                    except ShardError:
                        findings.problems += _unreadable(file, path, whole, start, stop)
                        continue
                    findings.problems += [f"{path}: field {whole!r} {what} in {_name_rows((at + start).tolist())}" for what, at in bad]


def _columns(contents: Contents, name: str, whole: str) -> list[Range]:
    """Return what the columns of sparse rows must be, where the file says how many there are."""
    packed = packed_of(contents.fields[name][1]) if name in contents.fields else None
    return [Range(whole, 0, packed.columns - 1)] if packed is not None and packed.columns else []


def _bad_rows(name: str, values: np.ndarray, ranges: Sequence[Range], allow_nan: bool) -> list[tuple[str, np.ndarray]]:
    """Return (what is wrong, which rows of the block) for values that may not be."""
    found = []
    flat = values.reshape(len(values), -1)
    if values.dtype.kind == "f" and not allow_nan:
        rows = np.flatnonzero(~np.isfinite(flat).all(axis=1))
        found.append(("has NaN or infinity", rows))
    for one in ranges:
        if one.name == name and values.dtype.kind in "fiub":
            rows = np.flatnonzero(((flat < one.low) | (flat > one.high)).any(axis=1))
            found.append((f"is outside {one.low:g}:{one.high:g}", rows))
    return [(what, rows) for what, rows in found if len(rows)]


def _name_rows(rows: list[int]) -> str:
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"{len(rows)} row{'s' if len(rows) > 1 else ''}: {', '.join(map(str, rows[:NAMED]))}{more}"


def _unreadable(file: Any, path: Path, name: str, start: int, stop: int, kind: Any = None) -> list[str]:
    """Return a sentence for every chunk of a block (or row, where there are no chunks) that cannot be read."""
    try:
        item = file[name]
        chunks = getattr(item, "chunks", None)
        unit = chunks[0] if chunks else 1
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        return [f"{path}: field {name!r} cannot be opened ({error})"]
    pending, spans = [(start, stop)], []
    while pending:
        first, last = pending.pop()
        try:
            read_rows(file, path, name, first, last, kind)
        except ShardError as error:
            if last - first > unit:
                middle = first + max(1, (last - first) // 2 // unit) * unit
                pending += [(middle, last), (first, middle)]
            else:
                spans.append((first, last, str(error.__cause__)))
    texts = [
        f"{path}: field {name!r}, rows {first}:{last} cannot be read{_address(item, first)} ({why})" for first, last, why in spans[:NAMED]
    ]
    return texts + ([f"{path}: field {name!r}: {len(spans) - NAMED} more pieces cannot be read"] if len(spans) > NAMED else [])


def _address(item: Any, row: int) -> str:
    """Return where in the file the chunk of a row lies, as words."""
    if not getattr(item, "chunks", None):
        return ""
    try:
        chunk = item.id.get_chunk_info_by_coord((row // item.chunks[0] * item.chunks[0], *(0,) * (item.ndim - 1)))
    except (OSError, RuntimeError, ValueError):
        return ""
    return f", chunk of {chunk.size} bytes at byte {chunk.byte_offset}"


def _compare(path: Path, contents: Contents, entry: Mapping[str, Any], known: Mapping[str, Any], findings: Findings) -> None:
    """Note the fields and blocks whose rows are not those that the manifest knows."""
    if entry["rows"] != known["rows"]:
        findings.problems.append(f"{path}: has {entry['rows']} rows, the manifest says {known['rows']}")
        return
    for name in sorted(set(entry["fields"]) | set(known["fields"])):
        if entry["fields"].get(name) == known["fields"].get(name):
            continue
        if name not in known["fields"] or name not in entry["fields"]:
            findings.problems.append(f"{path}: field {name!r} is {'not in the manifest' if name in entry['fields'] else 'gone'}")
            continue
        old = known.get("blocks", {}).get(name, []) if known.get("block") == entry["block"] else []
        spans = (
            [
                f"{start}:{stop}"
                for (start, stop), now, then in zip(row_blocks(contents), entry["blocks"][name], old, strict=bool(old))
                if now != then
            ]
            if old
            else [f"0:{contents.rows}"]
        )
        more = f" and {len(spans) - NAMED} more spans" if len(spans) > NAMED else ""
        findings.problems.append(f"{path}: field {name!r}, rows {', '.join(spans[:NAMED])}{more} are not those of the manifest")
    _compare_others(path, entry, known, findings)


def _compare_others(path: Path, entry: Mapping[str, Any], known: Mapping[str, Any], findings: Findings) -> None:
    """Note the entries of arrays that are no row fields, such as those of sparse rows, which are not those that the manifest knows."""
    for name, (block, then) in known.get("others", {}).items():
        if entry["others"].get(name, [block, then]) == [block, then]:
            continue
        now = entry["others"][name]
        same_cut = now[0] == block and len(now[1]) == len(then)
        spans = [f"{i * block}:{(i + 1) * block}" for i, (a, b) in enumerate(zip(now[1], then, strict=False)) if a != b] if same_cut else []
        more = f" and {len(spans) - NAMED} more spans" if len(spans) > NAMED else ""
        where = f", entries {', '.join(spans[:NAMED])}{more}," if spans else ""
        findings.problems.append(f"{path}: data set {name!r}{where} is not that of the manifest")


def _check_bytes(path: Path, known: Mapping[str, Any], findings: Findings) -> None:
    """Note a file whose bytes are not those that the manifest knows, though nothing else was found."""
    size = path.stat().st_size
    if size != known["bytes"]:
        findings.problems.append(f"{path}: has {size} bytes, the manifest says {known['bytes']}")
    elif file_sha256(path) != known["sha256"]:
        findings.problems.append(f"{path}: its sha256 is not that of the manifest")
