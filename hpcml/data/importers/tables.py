"""Tables: which columns become x, y and fields of their own, and how text becomes numbers; shared by CSV and Parquet.

A column of a table has a kind: "int" (every cell a whole number that int64 holds), "float" (every cell a number) or "text".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.data.importers.options import Options
from hpcml.errors import DataError

KINDS = ("int", "float", "text")
EMPTY = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
"""Cells of a column of numbers that say that there is no number, in lower case."""

MOST_TEXTS = 65536
"""A column with more different texts than this is no class."""


class CellError(Exception):
    """A cell that cannot be used: its row in the block, and what is wrong with it."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns of a table become what: positions of x's columns, of y or None, and of each kept field."""

    names: tuple[str, ...]
    features: tuple[int, ...]
    label: int | None
    keep: tuple[int, ...]

    @property
    def classed(self) -> tuple[int, ...]:
        """Columns that may hold text: the label and the kept ones."""
        return (*(() if self.label is None else (self.label,)), *self.keep)

    def field(self, column: int) -> str:
        """Return the name of the field that a label or kept column becomes."""
        return "y" if column == self.label else self.names[column]


def choose_roles(path: str, names: Sequence[str], options: Options) -> Roles:
    """Return the roles of a table's columns.

    Raises:
        DataError: for a name that is twice in the table or absent, with the near one, and for a table without features.
    """
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}; give each its own name")

    def place(name: str, what: str) -> int:
        if name in names:
            return list(names).index(name)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{path}: {what} column {name!r} is absent; {hint}the columns are {', '.join(map(repr, names[:30]))}")

    label = place(options.label, "label") if options.label else None
    keep = tuple(place(name, "kept") for name in options.keep)
    used = {label, *keep}
    features = tuple(place(name, "feature") for name in options.features) or tuple(i for i in range(len(names)) if i not in used)
    if not features:
        raise DataError(f"{path}: no column is left for the features; it has {', '.join(map(repr, names))}")
    unnamed = next((i for i in features if names[i] == unnamed_column(i)), None)
    if unnamed is not None and options.header and not options.features:
        text = f"{path}: column {unnamed + 1} has no name and may be a row number"
        raise DataError(f"{text}; name the columns to take by --features, or name it")
    return Roles(tuple(names), features, label, keep)


def unnamed_column(position: int) -> str:
    """Return the name that a column without one gets."""
    return f"column-{position + 1}"


def join_kinds(a: str, b: str) -> str:
    """Return the kind of a column that has cells of both kinds."""
    return KINDS[max(KINDS.index(a), KINDS.index(b))]


def kind_of(cells: Sequence[str]) -> str:
    """Return the kind of cells of text."""
    joined = "".join(cells)
    if _is_odd(joined):
        return "text"
    try:
        return "int" if all(-(2**63) <= int(cell) < 2**63 for cell in cells) else "float"
    except ValueError:
        pass
    try:
        for cell in cells:
            if cell.strip().lower() not in EMPTY:
                float(cell)
        return "float"
    except ValueError:
        return "text"


def _is_odd(text: str) -> bool:
    """Return whether a text has what Python lets pass in a number, though nobody who wrote a table meant it as one.

    That is "1_000", digits of other scripts, and control characters, which count as blanks.
    """
    return "_" in text or not text.isascii() or not text.replace("\t", " ").isprintable()


def _is_beyond_int64(text: str) -> bool:
    """Return whether a text is a whole number, written without point or exponent, outside int64."""
    digits = text.strip().lstrip("+-")
    return digits.isdigit() and (len(digits.lstrip("0")) > 19 or not -(2**63) <= int(text) < 2**63)


def to_numbers(cells: Sequence[str], dtype: np.dtype[Any], missing: float | None) -> np.ndarray:
    """Return cells of text as numbers, (n,) of a floating dtype.

    Raises:
        CellError: for a cell that is no finite number that dtype holds, or is empty while `missing` is None.
    """
    try:
        wide = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        wide = np.array([_one(cell, row, missing) for row, cell in enumerate(cells)], np.float64)
    with np.errstate(over="ignore"):
        values = wide.astype(dtype)
    if not np.isfinite(values).all():
        for row in np.flatnonzero(~np.isfinite(values)).tolist():
            if cells[row].strip().lower() in EMPTY:
                values[row] = _one(cells[row], row, missing)
            else:
                raise CellError(row, f"{cells[row]!r} is not a finite {dtype} number; correct it, or give a larger --dtype")
    joined = "".join(cells)
    if _is_odd(joined):
        row = next(row for row, cell in enumerate(cells) if _is_odd(cell))
        raise CellError(row, f"{cells[row]!r} is not a number")
    return values


def _one(cell: str, row: int, missing: float | None) -> float:
    text = cell.strip()
    if text.lower() in EMPTY:
        if missing is None:
            raise CellError(row, "is empty" if not text else f"{text!r} is no number; give --missing nan (or 0) if such cells may be")
        return missing
    try:
        return float(text)
    except ValueError:
        raise CellError(row, f"{text!r} is not a number; give the column as --label or --keep if it is a class") from None


def to_codes(cells: Sequence[str], kind: str, classes: Sequence[str], dtype: np.dtype[Any], missing: float | None) -> np.ndarray:
    """Return the cells of a label or kept column: int64 for whole numbers and classes, else floating.

    Raises:
        CellError: for a cell that cannot be used.
    """
    if kind == "int":
        return np.fromiter(map(int, cells), np.int64, len(cells))
    if kind == "float":
        for row in (row for row, cell in enumerate(cells) if len(cell) > 18 and _is_beyond_int64(cell)):
            raise CellError(row, f"{cells[row]!r} is a whole number beyond int64, and a float would merge it with others; leave it out")
        return to_numbers(cells, dtype, missing)
    codes = {name: code for code, name in enumerate(classes)}
    found = np.empty(len(cells), np.int64)
    for row, cell in enumerate(cells):
        text = cell.strip()
        if not text:
            raise CellError(row, "is empty; give every row a class")
        found[row] = codes[text]
    return found


@dataclass(frozen=True, slots=True)
class Settled:
    """What all tables together are: their roles, and for each label or kept column its kind and its classes if it is text."""

    roles: Roles
    kinds: dict[int, str]
    classes: dict[int, list[str]]

    def fields(self, options: Options) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return the fields that the tables become."""
        made: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {"x": ((len(self.roles.features),), options.real)}
        for column in self.roles.classed:
            made[self.roles.field(column)] = ((), options.real if self.kinds[column] == "float" else np.dtype(np.int64))
        return made

    def attributes(self) -> dict[str, list[str]]:
        """Return "field@key" -> texts: the names of x's columns, and the classes behind whole numbers."""
        named = {"x@columns": [self.roles.names[column] for column in self.roles.features]}
        return named | {
            f"{self.roles.field(column)}@classes": self.classes[column] for column in self.roles.classed if column in self.classes
        }


def settle(scans: Mapping[str, Mapping[str, Any]], options: Options) -> Settled:
    """Return what the scanned tables, path -> scan, are together.

    Raises:
        DataError: if their columns differ, a column of texts has too many, or a text holds what HDF5 cannot.
    """
    first_path, first = next(iter(scans.items()))
    for path, scan in scans.items():
        if scan["columns"] != first["columns"]:
            ours, theirs = set(scan["columns"]), set(first["columns"])
            what = f"has {sorted(ours - theirs)} and lacks {sorted(theirs - ours)}" if ours != theirs else "has them in another order"
            raise DataError(f"{path}: its columns are not those of {first_path}, it {what}; write all tables alike")
        _refuse_nul(path, scan)
    roles = choose_roles(first_path, first["columns"], options)
    kinds, classes = {}, {}
    for column in roles.classed:
        kind = "int"
        for scan in scans.values():
            kind = join_kinds(kind, scan["kinds"][str(column)])
        kinds[column] = kind
        if kind == "text":
            lists = [scan["texts"][str(column)] for scan in scans.values()]
            texts = None if any(one is None for one in lists) else sorted({text for one in lists for text in one})
            if texts is None or len(texts) > MOST_TEXTS:
                text = f"{first_path}: column {roles.names[column]!r} has more than {MOST_TEXTS} different texts"
                raise DataError(f"{text}; that is no class, leave the column out")
            classes[column] = texts
    return Settled(roles, kinds, classes)


def _refuse_nul(path: str, scan: Mapping[str, Any]) -> None:
    """Refuse names and texts with a NUL character: HDF5 would end them there."""
    texts = (text for listed in (scan["columns"], *scan["texts"].values()) for text in listed or () if "\0" in text)
    for text in texts:
        raise DataError(f"{path}: the text {text[:60]!r} holds a NUL character, which HDF5 cannot keep; remove it")
