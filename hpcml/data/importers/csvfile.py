"""CSV and TSV, gzipped or not, in UTF-8: one pass finds everything wrong and notes where every BATCHth row begins."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.importers.options import Options
from hpcml.data.importers.ranges import WHOLE, Range
from hpcml.data.importers.tables import (
    MOST_TEXTS,
    CellError,
    Roles,
    Settled,
    choose_roles,
    join_kinds,
    kind_of,
    to_codes,
    to_numbers,
    unnamed_column,
)
from hpcml.errors import DataError

BATCH = 2048
"""Rows parsed at once, and between two noted places in the file."""

Record = tuple[int, int, bytes]
"""(line number, byte offset, text) of one row, which may span lines inside quotes."""


class CsvPart:
    """One CSV file, of which a range of bytes may be scanned by itself.

    Args:
        path: the file.
        options: how to read it.
        part: the range to scan, or None to scan all of it.
    """

    def __init__(self, path: Path, options: Options, part: Range | None = None) -> None:
        self.path, self._options, self._range = path, options, part
        self._delimiter = options.delimiter or ("\t" if path.name.removesuffix(".gz").endswith(".tsv") else ",")
        self._file: Any = None

    def scan(self) -> dict[str, Any]:
        """Return rows, columns, kinds and texts of columns that may hold classes, and [row, byte offset, line] of every BATCHth row.

        Of a range, the same for the rows that begin in it; `join` makes them one.

        Raises:
            DataError: naming line and column of the first thing that is wrong.
        """
        return self.join([self._scan(WHOLE)]) if self._range is None else self._scan(self._range)

    def _scan(self, part: Range) -> dict[str, Any]:
        columns, first = self._columns()
        roles = choose_roles(str(self.path), columns, self._options)
        kinds: dict[int, str] = dict.fromkeys(roles.classed, "int")
        texts: dict[int, set[str] | None] = {column: set() for column in roles.classed}
        rows, offsets = 0, []
        records = self._records(self._begin(part, first))
        if part[3] is not None:
            stop = part[3]
            records = takewhile(lambda record: record[1] <= stop, records)  # the next range begins behind the line end at `stop`
        for batch in _batched(records):
            offsets.append([rows, batch[0][1], batch[0][0]])
            cells = self._parse(batch, len(columns))
            for column in roles.features:
                self._numbers(cells, column, roles, batch)
            for column in roles.classed:
                kinds[column] = join_kinds(kinds[column], kind_of(cells[column]))
                seen = texts[column]
                if seen is not None:
                    seen.update(cell.strip() for cell in cells[column])
                    texts[column] = seen if len(seen) <= MOST_TEXTS else None
            rows += len(batch)
        listed = {str(column): None if seen is None else sorted(seen) for column, seen in texts.items()}
        return {"rows": rows, "columns": columns, "kinds": {str(k): v for k, v in kinds.items()}, "texts": listed, "offsets": offsets}

    def join(self, scans: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the scan of the whole file from the scans of all its ranges, in order.

        Raises:
            DataError: for a file without rows, and classes or labels that are empty.
        """
        columns, rows, offsets = scans[0]["columns"], 0, []
        roles = choose_roles(str(self.path), columns, self._options)
        for scan in scans:
            offsets += [[rows + row, offset, line] for row, offset, line in scan["offsets"]]
            rows += scan["rows"]
        if not rows:
            raise DataError(f"{self.path}: has no rows")
        kinds, listed = {}, {}
        for column in map(str, roles.classed):
            kinds[column] = reduce(join_kinds, (scan["kinds"][column] for scan in scans))
            texts = _join_texts([scan["texts"][column] for scan in scans])
            self._check_classed(int(column), kinds[column], texts, roles)
            listed[column] = None if texts is None else sorted(texts)
        return {"rows": rows, "columns": columns, "kinds": kinds, "texts": listed, "offsets": offsets}

    def read(self, scan: dict[str, Any], settled: Settled, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field.

        Raises:
            DataError: if the file is no longer what was scanned.
        """
        roles = settled.roles
        out = {name: np.empty((stop - start, *shape), dtype) for name, (shape, dtype) in settled.fields(self._options).items()}
        row, offset, line = scan["offsets"][bisect_right(scan["offsets"], start, key=lambda place: place[0]) - 1]
        for records in _batched(self._records((offset, line))):
            if row >= stop:
                break
            first, last = max(start - row, 0), min(stop - row, len(records))
            cells = self._parse(records[first:last], len(roles.names))
            goal = slice(row + first - start, row + last - start)
            for i, column in enumerate(roles.features):
                out["x"][goal, i] = self._numbers(cells, column, roles, records[first:last])
            for column in roles.classed:
                out[roles.field(column)][goal] = self._codes(cells[column], column, settled, records[first:last])
            row += len(records)
        if row < stop:
            raise DataError(f"{self.path}: has {row} rows, {scan['rows']} were there when it was scanned; start again")
        return out

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _codes(self, cells: tuple[str, ...], column: int, settled: Settled, records: list[Record]) -> np.ndarray:
        try:
            kind, classes = settled.kinds[column], settled.classes.get(column, [])
            return to_codes(cells, kind, classes, self._options.real, self._options.missing)
        except CellError as error:
            raise self._wrong(records[error.row], settled.roles.names[column], error.what) from None

    def _numbers(self, cells: list[tuple[str, ...]], column: int, roles: Roles, records: list[Record]) -> np.ndarray:
        try:
            return to_numbers(cells[column], self._options.real, self._options.missing)
        except CellError as error:
            raise self._wrong(records[error.row], roles.names[column], error.what) from None

    def _wrong(self, record: Record, column: str, what: str) -> DataError:
        return DataError(f"{self.path}: line {record[0]}, column {column!r}: {what}")

    def _check_classed(self, column: int, kind: str, texts: set[str] | None, roles: Roles) -> None:
        """Refuse empty cells: they are no class, and a number only where --missing says which."""
        empty = texts is not None and bool(
            {text for text in texts if text == "" or (kind == "float" and text.lower() in ("nan", "na", "?"))}
        )
        if empty and (kind == "text" or self._options.missing is None):
            for line, _, text in self._records(self._columns()[1]):
                cell = next(csv.reader([text.decode()], delimiter=self._delimiter))[column].strip()
                if cell == "" or (kind == "float" and cell.lower() in ("nan", "na", "?")):
                    what = f"{cell!r} is no class or number; give every row one"
                    raise self._wrong((line, 0, b""), roles.names[column], what)

    def _columns(self) -> tuple[list[str], tuple[int, int]]:
        """Return the names of the columns, and (offset, line) of the first row."""
        first = next(self._records((0, 1)), None)
        if first is None:
            raise DataError(f"{self.path}: is empty")
        line, offset, text = first
        cells = self._split([(line, offset, text.removeprefix(b"\xef\xbb\xbf"))])[0]
        if len(cells) == 1 and self._delimiter == "," and any(sign in cells[0] for sign in ";\t|"):
            sign = next(sign for sign in ";\t|" if sign in cells[0])
            raise DataError(f"{self.path}: line {line} has one column, {cells[0][:60]!r}; give --delimiter {sign!r}")
        if not self._options.header:
            return [unnamed_column(i) for i in range(len(cells))], (offset + (3 if text.startswith(b"\xef\xbb\xbf") else 0), line)
        names = [cell.strip() or unnamed_column(i) for i, cell in enumerate(cells)]
        if kind_of(cells) != "text":
            raise DataError(f"{self.path}: line {line} should name the columns, but has numbers only; give --no-header if it is a row")
        return names, (offset + len(text), line + text.count(b"\n"))

    def _begin(self, part: Range, first: tuple[int, int]) -> tuple[int, int]:
        """Return (offset, line) of the first row that begins in a range or behind it; `first` is that of the whole file."""
        offset, line, quotes = part[0], part[1], int(part[2])
        if not offset:
            return first
        self._open()
        self._file.seek(offset)
        for text in self._file:
            offset, line, quotes = offset + len(text), line + 1, quotes + text.count(b'"')
            if not quotes % 2:
                break
        return max(first, (offset, line))

    def _open(self) -> None:
        if self._file is None:
            self._file = _open(self.path)

    def _records(self, begin: tuple[int, int]) -> Iterator[Record]:
        """Yield the rows from (byte offset, line number) on; blank lines are left out."""
        offset, number = begin
        held: list[bytes] = []
        quotes = 0
        try:
            self._open()
            self._file.seek(offset)
            for line in self._file:
                if not held:
                    start, first = offset, number
                offset, number = offset + len(line), number + 1
                quotes += line.count(b'"')
                if quotes % 2:
                    held.append(line)
                    continue
                text = b"".join([*held, line]) if held else line
                held, quotes = [], 0
                if text.rstrip(b"\r\n"):
                    yield first, start, text
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: cannot be read from line {number} on ({error})") from error
        if held:
            raise DataError(f"{self.path}: line {first}: a quote is opened and never closed")

    def _parse(self, records: list[Record], width: int) -> list[tuple[str, ...]]:
        """Return the cells of rows, column by column.

        Raises:
            DataError: naming the line of a row that has another number of cells.
        """
        rows = self._split(records)
        for row, (line, _, _) in zip(rows, records, strict=True):
            if len(row) != width:
                raise DataError(
                    f"{self.path}: line {line} has {len(row)} cells, expected {width} as in the first line; correct or remove it"
                )
        return list(zip(*rows, strict=True))

    def _split(self, records: list[Record]) -> list[list[str]]:
        """Return the cells of rows, or name the line that is no CSV."""
        try:
            texts = [text.decode("utf-8") for _, _, text in records]
            rows = list(csv.reader(texts, delimiter=self._delimiter, strict=True))
            if len(rows) == len(records):
                return rows
        except (UnicodeDecodeError, csv.Error):
            pass
        for line, _, text in records:
            try:
                list(csv.reader([text.decode("utf-8")], delimiter=self._delimiter, strict=True))
            except UnicodeDecodeError:
                raise DataError(f"{self.path}: line {line} is not UTF-8 text; convert the file, for example with iconv") from None
            except csv.Error as error:
                raise DataError(f"{self.path}: line {line} is no row of a CSV ({error}); correct or remove it") from None
        raise DataError(f"{self.path}: lines {records[0][0]} to {records[-1][0]} are no rows of a CSV")


def _join_texts(parts: Sequence[Iterable[str] | None]) -> set[str] | None:
    """Return all texts of a column together, or None where they are too many for classes."""
    joint: set[str] = set()
    for part in parts:
        if part is None:
            return None
        joint.update(part)
    return joint if len(joint) <= MOST_TEXTS else None


def _batched(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield lists of BATCH records, the last one shorter."""
    held: list[Record] = []
    for record in records:
        held.append(record)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held


def _open(path: Path) -> Any:
    """Return a CSV as a stream of bytes; gzip seeks forward by reading on."""
    return io.BufferedReader(gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
