"""How a field lies in one file, and by which road its rows are read: found out once, by one rank, and sent to all.

Roads, the fastest first:
- "contiguous": positioned reads (preadv) straight into the caller's memory, without HDF5;
- "chunked": raw chunks by positioned reads, decoded outside HDF5's lock by `codecs`;
- "library": h5py's own pipeline, one thread at a time, for everything else that HDF5 can read;
- "spread": values by one of the roads above, spread over rows of equal length as offsets (and column numbers) say.
A road that leaves HDF5 out is taken only where its first row (or chunk) has the bytes that h5py gives.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data import codecs
from hpcml.data.conventions import conventions, suspected
from hpcml.data.elsewhere import Source, external_sources, linked_source, virtual_sources
from hpcml.data.foreign import foreign_rows, refuse_masked
from hpcml.data.tables import table_text
from hpcml.errors import ShardError

CONTIGUOUS, CHUNKED, LIBRARY, SPREAD = ROADS = ("contiguous", "chunked", "library", "spread")
"""The four roads."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Rows of variable length, and how they become rows of `columns` entries: each entry a number, or a row of what holds the values.

    Args:
        show: "values"; "length" (entries of a row, one number); "mask" (1 where a row has an entry, 0 behind them).
        columns: entries of a row in memory; for "length", the most that are counted, 0 for all.
        values: name of the data set of all rows' entries, one row after the other.
        offsets: name of the data set where each row begins, and at last where the last one ends.
        indices: name of the data set of the entries' columns (CSR); "" where entries follow one another.
        pad: what stands where a row has no entry.
        truncate: leave out the entries behind `columns`; else a longer row is refused.
    """

    show: str
    columns: int
    values: str
    offsets: str
    indices: str = ""
    pad: float = 0.0
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """How one field lies in one file.

    Args:
        road: one of ROADS.
        why: the reason in words, as `hpcml data inspect` shows it.
        dtype: numpy's name with byte order ("<f4"), or "|b1" for HDF5's booleans.
        offset: contiguous: bytes before the first row.
        chunk: shape of a chunk; empty where there are none.
        table: where the chunks lie, as `ChunkTable` writes it; "" where nobody looked, or the table is damaged.
        filters: the chunks' filters, in the order of writing.
        nbytes: bytes that the field takes in the file.
        rows: entries of the first axis of a data set; 0 for rows of variable length, which have several.
        sources: the other files of a virtual or external data set.
        scale: number of the file times this ...
        shift: ... plus this is the value (the CF convention), where asked for.
        fills: the numbers in the file that stand for "no value".
        valid: (least, largest) of those that do not; () where any number may be a value.
        refuses: rows with a number that stands for none are refused, all others are used as they are.
        instead: what such numbers become; None is NaN, which is refused with its row.
        block: rows of which a manifest has one checksum; 0 where there is none.
        hashes: these checksums, 16 hexadecimal digits each, one after the other.
        variable: how rows of variable length become rows of one; None where they have one.
        parts: then (name, how it is stored) of each data set that holds them.
    """

    road: str
    why: str
    dtype: str
    offset: int = 0
    chunk: tuple[int, ...] = ()
    table: str = ""
    filters: tuple[tuple[int, tuple[int, ...]], ...] = ()
    nbytes: int = 0
    rows: int = 0
    sources: tuple[Source, ...] = ()
    scale: float = 1.0
    shift: float = 0.0
    fills: tuple[float, ...] = ()
    valid: tuple[float, ...] = ()
    refuses: bool = False
    instead: float | None = None
    block: int = 0
    hashes: str = ""
    variable: Variable | None = None
    parts: tuple[tuple[str, Stored], ...] = ()

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded together; 1 where rows can be read one by one."""
        return self.chunk[0] if self.chunk and (self.road != CONTIGUOUS) else 1

    @property
    def is_plain(self) -> bool:
        """Return whether numbers are used as they are in the file."""
        return self.refuses or (self.scale == 1 and self.shift == 0 and not self.fills and not self.valid)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Stored:
        """Return what `dataclasses.asdict` took apart and JSON carried."""
        filters = tuple((int(code), tuple(values)) for code, values in plain["filters"])
        sources = tuple(Source(**source) for source in plain["sources"])
        variable = None if plain["variable"] is None else Variable(**plain["variable"])
        parts = tuple((name, cls.from_plain(part)) for name, part in plain["parts"])
        lists = {"chunk": tuple(plain["chunk"]), "fills": tuple(plain["fills"]), "valid": tuple(plain["valid"]), "filters": filters}
        made = {**lists, "sources": sources, "variable": variable, "parts": parts}
        return cls(**{**plain, **made})


def look(path: Path, dataset: Any, cf: bool | None = None, instead: float | None = None) -> Stored:
    """Return how an open h5py data set is stored and is to be read.

    Args:
        path: the file, for messages.
        dataset: an h5py.Dataset of numbers with at least one row.
        cf: apply attributes such as scale_factor and _FillValue, and take parts never written for fill values; False: look at none;
            None: refuse what they would change.
        instead: what fill values become.

    Raises:
        ShardError: for data that HDF5 would make up (never written, in a file that is gone), cannot decode, or that is no rows.
    """
    no_rows = foreign_rows(dataset)
    if no_rows:
        raise ShardError(f"{path}: field {dataset.name.lstrip('/')!r} {no_rows}")
    if cf is not False:
        refuse_masked(path, dataset)
    linked = linked_source(path, dataset)
    if linked is not None:
        found, why = look(Path(linked.path), dataset, cf, instead), f"a link takes it from {linked.path}"
        return replace(found, road=LIBRARY, why=why, offset=0, table="", sources=(linked, *found.sources))
    plist = dataset.id.get_create_plist()
    filters = tuple((int(code), tuple(map(int, values))) for code, _, values, _ in map(plist.get_filter, range(plist.get_nfilters())))
    sources = (
        external_sources(path, dataset)
        if dataset.external
        else virtual_sources(path, dataset, partial(look, cf=False))
        if dataset.is_virtual
        else ()
    )
    absent = 0 if sources else _absent_chunks(dataset)
    if not cf and not sources:
        _refuse_unwritten(path, dataset, absent)
    common: dict[str, Any] = {
        "dtype": dataset.dtype.str,
        "chunk": tuple(map(int, dataset.chunks or ())),
        "filters": filters,
        "nbytes": int(dataset.id.get_storage_size()),
        "rows": int(dataset.shape[0]),
        "sources": sources,
        **_meant(path, dataset, cf, bool(absent), instead),
    }
    road, why, offset = _choose(path, dataset, filters, bool(sources))
    if absent:
        road, why = LIBRARY, "parts of it were never written"
    if road == LIBRARY:
        require_filters(path, dataset)
    return Stored(road, why, offset=offset, table=table_text(dataset) if road == CHUNKED else "", **common)


def _meant(path: Path, dataset: Any, cf: bool | None, absent: bool, instead: float | None) -> dict[str, Any]:
    """Return what numbers of the file mean, as `Stored` has it."""
    if cf is None:
        return suspected(path, dataset)
    return {**conventions(path, dataset, absent), "instead": instead} if cf else {}


def _choose(path: Path, dataset: Any, filters: tuple[codecs.Filter, ...], elsewhere: bool) -> tuple[str, str, int]:
    """Return the road, the reason, and the offset of a contiguous data set."""
    from h5py import h5d, h5t

    layout = dataset.id.get_create_plist().get_layout()
    if elsewhere:
        return LIBRARY, "its rows are in other files (virtual or external storage)", 0
    if layout == h5d.COMPACT:
        return LIBRARY, "it is compact: stored inside the file's metadata", 0
    kind = dataset.id.get_type()
    if not (dataset.dtype == np.bool_ and kind.get_size() == 1) and not h5t.py_create(dataset.dtype).equal(kind):
        return LIBRARY, "its numbers are of a type that only HDF5 converts", 0
    if layout == h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None or not _same_first_row(path, dataset, int(offset)):
            return LIBRARY, "the bytes at its address are not the rows that HDF5 reads", 0
        return CONTIGUOUS, "positioned reads into the batch's own memory", int(offset)
    if dataset.chunks is None:
        return LIBRARY, "its layout is none that is read without HDF5", 0
    lacking = codecs.missing(filters)
    if lacking:
        return LIBRARY, f"no decoder for {lacking} outside HDF5 (pip install hdf5plugin brings LZ4, Zstandard and Blosc)", 0
    how = "decoded by threads outside HDF5's lock" if filters else "read without HDF5"
    return CHUNKED, f"raw chunks {how}", 0


def _same_first_row(path: Path, dataset: Any, offset: int) -> bool:
    """Return whether the bytes at an offset are the first row as h5py reads it."""
    row = np.ascontiguousarray(dataset[:1])
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(row.nbytes) == row.tobytes()


def _absent_chunks(dataset: Any) -> int:
    """Return how many chunks (or 1 for all of a contiguous data set) were never written."""
    if dataset.chunks is None:
        return 0 if dataset.id.get_storage_size() else 1
    expected = int(np.prod([-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]))
    return expected - int(dataset.id.get_num_chunks())


def _refuse_unwritten(path: Path, dataset: Any, absent: int) -> None:
    """Refuse data sets, or parts of them, that were never written: HDF5 would make them up."""
    name, what = dataset.name.lstrip("/"), f"read as {dataset.fillvalue}"
    if not dataset.id.get_storage_size():
        raise ShardError(f"{path}: field {name!r} was created but never written, its rows {what}; write the shard again")
    if absent:
        text = f"{absent} of its chunks were never written, their rows {what}"
        raise ShardError(f"{path}: field {name!r}: {text}; write the shard again, or set data.cf = true to take them as fill values")


def has_filter(code: int) -> bool:
    """Return whether HDF5 can decode a filter here, after asking hdf5plugin for it."""
    from h5py import h5z

    if not h5z.filter_avail(code):
        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401 - importing it registers its filters
    return bool(h5z.filter_avail(code))


def require_filters(path: Path, dataset: Any) -> None:
    """Raise ShardError for a data set whose filters neither h5py nor hdf5plugin has."""
    plist = dataset.id.get_create_plist()
    for position in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(position)
        if not has_filter(code):
            name, text = dataset.name.lstrip("/"), label.decode(errors="replace") or "no name"
            raise ShardError(f"{path}: field {name!r} needs HDF5 filter {code} ({text}), which is not installed; pip install hdf5plugin")
