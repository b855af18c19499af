"""From sources to parts, and from scanned parts to one row space."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from hpcml.data.importers.arrays import ArrayPart
from hpcml.data.importers.csvfile import CsvPart
from hpcml.data.importers.images import BLOCK, ImagePart, find_images, refuse_mixture
from hpcml.data.importers.options import Options
from hpcml.data.importers.parquet import ParquetPart
from hpcml.data.importers.tables import Settled, settle
from hpcml.data.shards import find_shards
from hpcml.errors import ConfigError, DataError

ATTRIBUTE_BYTES = 30000
"""Texts longer than this do not fit an HDF5 attribute; they become a data set without rows."""

Spec = dict[str, Any]
"""A part as plain data: kind, path, field, its images if it has any, and the range where only that is to be scanned."""

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".npy": "npy",
    ".npz": "npz",
    ".idx": "idx",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class Part(Protocol):
    """One piece of a source."""

    path: Path

    def scan(self) -> dict[str, Any]:
        """Return its rows and what else must be known to read them, as plain data."""

    def read(self, scan: dict[str, Any], settled: Any, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return some of its rows."""

    def close(self) -> None:
        """Close what is open."""


def find_parts(sources: Sequence[str], options: Options) -> tuple[list[Spec], dict[str, list[str]], list[str]]:
    """Return the parts that the sources are made of, the attributes known so far, and notes for the user.

    Args:
        sources: paths, globs, folders of images, or FIELD=PATH for arrays.
        options: how to read them.

    Raises:
        DataError: for a source that is not there, named twice, or of a kind that cannot be told or mixed.
    """
    specs: list[Spec] = []
    attributes: dict[str, list[str]] = {}
    notes: list[str] = []
    for source in sources:
        found = re.fullmatch(r"([A-Za-z_]\w*)=(.+)", source) if not Path(source).exists() else None
        field, pattern = (found[1], found[2]) if found else ("", source)
        if Path(pattern).expanduser().is_dir() and options.format in ("", "images"):
            classes, images, other = find_images(Path(pattern).expanduser().absolute())
            if "y@classes" in attributes and attributes["y@classes"] != classes:
                raise DataError(f"{pattern}: its classes {classes} are not those of the folder before, {attributes['y@classes']}")
            attributes.update({"y@classes": classes} if classes else {})
            notes += [f"{pattern}: {other} files that are not images were left out"] if other else []
            blocks = [images[i : i + BLOCK] for i in range(0, len(images), BLOCK)]
            specs += [{"kind": "images", "path": block[0][0], "field": "", "images": block} for block in blocks]
            continue
        for path in find_shards(pattern):
            kind = options.format or kind_of(path)
            if field and kind not in ("npy", "idx"):
                raise ConfigError(f"{source}: a field is named for arrays (NPY, IDX) only; tables and NPZ have names inside")
            specs.append({"kind": kind, "path": str(path), "field": field or "x"})
    _refuse_twice(specs, sources)
    kinds = {spec["kind"] for spec in specs}
    if len(kinds) > 1 and not kinds <= {"npy", "idx", "npz"}:
        raise ConfigError(f"sources of different kinds ({', '.join(sorted(kinds))}) cannot be rows of one data set; import them one by one")
    return specs, attributes, notes


def _refuse_twice(specs: Sequence[Spec], sources: Sequence[str]) -> None:
    """Refuse a file that sources name twice for the same field."""
    seen: set[tuple[str, str]] = set()
    for spec in specs:
        key = spec["field"], spec["path"]
        if key in seen:
            raise DataError(f"{spec['path']}: named twice by {list(sources)}; its rows would be there twice, so name it once")
        seen.add(key)


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name.

    Raises:
        ConfigError: if the name does not tell.
    """
    name = path.name.removesuffix(".gz")
    if re.search(r"idx\d-ubyte$|-idx\d$", name):
        return "idx"
    kind = SUFFIXES.get(Path(name).suffix.lower())
    if kind is None:
        raise ConfigError(f"{path}: its name does not tell what it is; give --format {'|'.join(sorted(set(SUFFIXES.values())))}")
    return kind


def make_part(spec: Spec, options: Options) -> Part:
    """Return the part that a spec describes."""
    path = Path(spec["path"])
    if spec["kind"] == "csv":
        return CsvPart(path, options, spec.get("range"))
    if spec["kind"] == "parquet":
        return ParquetPart(path, options)
    if spec["kind"] == "images":
        return ImagePart([(name, number) for name, number in spec["images"]], options)
    return ArrayPart(path, spec["field"], spec["kind"], options)


def scan_part(spec: Spec, options: Options) -> dict[str, Any]:
    """Return what one part is, and leave nothing open.

    Raises:
        DataError: naming what is wrong with it.
    """
    part = make_part(spec, options)
    try:
        return part.scan()
    finally:
        part.close()


def join_part(spec: Spec, scans: Sequence[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Return what a table is, from the scans of its ranges, and leave nothing open.

    Raises:
        DataError: naming what is wrong with it.
    """
    part = CsvPart(Path(spec["path"]), options)
    try:
        return part.join(scans)
    finally:
        part.close()


class Assembly:
    """Scanned parts as one row space: a part's rows come after those of the parts before it that have the same fields.

    Args:
        specs: the parts.
        scans: of each part, in the same order.
        options: how they are read.

    Raises:
        DataError: for parts that do not fit together: fields, dtypes, shapes or numbers of rows.
    """

    def __init__(self, specs: Sequence[Spec], scans: Sequence[dict[str, Any]], options: Options) -> None:
        self._specs, self._scans, self._options = list(specs), list(scans), options
        self.settled: Settled | None = None
        if specs[0]["kind"] in ("csv", "parquet"):
            self.settled = settle({spec["path"]: scan for spec, scan in zip(specs, scans, strict=True)}, options)
        self.fields: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}
        for number in range(len(specs)):
            self._place(number)
        lengths = {name: pieces[-1][1] for name, pieces in self._pieces.items()}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{name!r} {n}" for name, n in lengths.items())
            raise DataError(f"the fields have different numbers of rows ({text}); name the same rows for each")
        self.rows = next(iter(lengths.values()))
        self._open: dict[int, Part] = {}

    def attributes(self) -> dict[str, list[str]]:
        """Return "field@key" -> texts that tables give."""
        return {} if self.settled is None else self.settled.attributes()

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field.

        Raises:
            DataError: if they cannot be read.
        """
        out = {name: np.empty((stop - start, *shape), dtype) for name, (shape, dtype) in self.fields.items()}
        needed: dict[tuple[int, int, int], list[str]] = {}
        for name, pieces in self._pieces.items():
            for first, last, number in pieces:
                if first < stop and last > start:
                    needed.setdefault((number, max(first, start) - first, min(last, stop) - first), []).append(name)
        for (number, begin, end), names in needed.items():
            values = self._part(number).read(self._scans[number], self.settled, begin, end)
            for name in names:
                first = next(piece[0] for piece in self._pieces[name] if piece[2] == number)
                out[name][first + begin - start : first + end - start] = values[name]
        return out

    def close(self) -> None:
        """Close every part; a later read opens what it needs again."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Assembly:
        """Return the assembly itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close every part."""
        self.close()

    def _place(self, number: int) -> None:
        """Put a part behind the others that have its fields."""
        spec, scan = self._specs[number], self._scans[number]
        fields = self._described(scan)
        for name, (shape, dtype) in fields.items():
            if name in self.fields and self.fields[name] != (shape, dtype):
                old, first = self.fields[name], self._specs[self._pieces[name][0][2]]
                if spec["kind"] == "images" and name == "x":
                    refuse_mixture(spec["path"], scan["size"], scan["mode"], first["path"], *self._image(first))
                text = f"{spec['path']}: field {name!r} has rows of {shape} {dtype}"
                raise DataError(f"{text}, {first['path']} has {old[0]} {old[1]}; import them one by one, or make them alike")
            self.fields[name] = (shape, dtype)
            pieces = self._pieces.setdefault(name, [])
            start = pieces[-1][1] if pieces else 0
            pieces.append((start, start + scan["rows"], number))

    def _described(self, scan: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        if self.settled is not None:
            return self.settled.fields(self._options)
        return {name: (tuple(entry[0]), np.dtype(entry[1]).newbyteorder("<")) for name, entry in scan["fields"].items()}

    def _image(self, spec: Spec) -> tuple[list[int], str]:
        scan = self._scans[self._specs.index(spec)]
        return scan["size"], scan["mode"]

    def _part(self, number: int) -> Part:
        """Return a part, one of a few that are open: rows are read in order, so each is opened about once."""
        if number not in self._open:
            if len(self._open) > 8:
                self._open.pop(next(iter(self._open))).close()
            self._open[number] = make_part(self._specs[number], self._options)
        return self._open[number]


def text_decorator(attributes: Mapping[str, Sequence[str]]) -> Callable[[Any], None]:
    """Return a function that writes lists of texts as attributes "field@key" of a new h5py file; long ones become data sets field_key."""

    def decorate(file: Any) -> None:
        import h5py

        for place, texts in attributes.items():
            name, _, key = place.rpartition("@")
            values = np.array([text.encode() for text in texts], object)
            if sum(map(len, values)) < ATTRIBUTE_BYTES and len(values) < ATTRIBUTE_BYTES // 32:
                file[name].attrs.create(key, values, dtype=h5py.string_dtype())
            else:
                file.create_dataset(f"{name}_{key}", data=values, dtype=h5py.string_dtype(), track_times=False)

    return decorate
