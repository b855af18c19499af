"""Parquet files through pyarrow, where it is installed: columns of numbers and text, read a group of rows at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.importers.options import Options
from hpcml.data.importers.tables import MOST_TEXTS, Settled, choose_roles
from hpcml.errors import ConfigError, DataError


def require_pyarrow() -> Any:
    """Return pyarrow.parquet.

    Raises:
        ConfigError: if pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("Parquet needs the package pyarrow (pip install pyarrow)") from error
    return pyarrow.parquet


class ParquetPart:
    """One Parquet file."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self._options = path, options
        self._file: Any = None
        self._group: tuple[int, Any] | None = None

    def scan(self) -> dict[str, Any]:
        """Return rows, columns, kinds and texts of columns that may hold classes, and the rows of every group.

        Raises:
            DataError: for a file that cannot be read, a column that is neither numbers nor text, or an empty cell, by its row.
        """
        file = self._opened()
        columns = list(file.schema_arrow.names)
        roles = choose_roles(str(self.path), columns, self._options)
        kinds: dict[str, str] = {}
        texts: dict[str, Any] = {str(column): set() for column in roles.classed}
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        if not sum(groups):
            raise DataError(f"{self.path}: has no rows")
        for column in roles.classed:
            kinds[str(column)] = self._kind(file, columns[column], classed=True)
        for column in roles.features:
            self._kind(file, columns[column], classed=False)
        row = 0
        for group in range(len(groups)):
            for column in (*roles.features, *roles.classed):
                values = self._column(group, columns[column])
                self._check(values, column, row, kinds.get(str(column), "float"), columns[column])
                seen = texts.get(str(column))
                if seen is not None:
                    seen.update(map(str, values.unique().to_pylist()))
                    texts[str(column)] = seen if len(seen) <= MOST_TEXTS else None
            row += groups[group]
        listed = {column: None if seen is None else sorted(text.strip() for text in seen) for column, seen in texts.items()}
        return {"rows": sum(groups), "columns": columns, "kinds": kinds, "texts": listed, "groups": groups}

    def read(self, scan: dict[str, Any], settled: Settled, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field.

        Raises:
            DataError: if they cannot be read.
        """
        out = {name: np.empty((stop - start, *shape), dtype) for name, (shape, dtype) in settled.fields(self._options).items()}
        edges = np.concatenate([[0], np.cumsum(scan["groups"])])
        for group in range(len(scan["groups"])):
            first, last = max(start, int(edges[group])), min(stop, int(edges[group + 1]))
            if first >= last:
                continue
            inside, goal = slice(first - int(edges[group]), last - int(edges[group])), slice(first - start, last - start)
            for i, column in enumerate(settled.roles.features):
                out["x"][goal, i] = self._numbers(self._column(group, settled.roles.names[column]))[inside]
            for column in settled.roles.classed:
                values = self._column(group, settled.roles.names[column])
                out[settled.roles.field(column)][goal] = self._codes(values, column, settled)[inside]
        return out

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._group = None, None

    def _opened(self) -> Any:
        if self._file is None:
            pyarrow = require_pyarrow()
            try:
                self._file = pyarrow.ParquetFile(self.path, page_checksum_verification=True)  # of files whose pages have checksums
            except (OSError, ValueError) as error:  # pyarrow's own errors are ValueError
                raise DataError(f"{self.path}: is no Parquet file, or damaged ({error}); copy it again") from error
        return self._file

    def _column(self, group: int, name: str) -> Any:
        """Return one column of a group; the group's columns are kept until another group is asked for."""
        if self._group is None or self._group[0] != group:
            self._group = (group, {})
        held = self._group[1]
        if name not in held:
            try:
                held[name] = self._opened().read_row_group(group, columns=[name]).column(0).combine_chunks()
            except (OSError, ValueError) as error:
                raise DataError(f"{self.path}: column {name!r} of row group {group} cannot be read ({error}); copy it again") from error
        return held[name]

    def _kind(self, file: Any, name: str, *, classed: bool) -> str:
        import pyarrow.types as types

        kind = file.schema_arrow.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_integer(kind) or types.is_boolean(kind):
            return "int"
        if types.is_floating(kind) or types.is_decimal(kind):
            return "float"
        if classed and (types.is_string(kind) or types.is_large_string(kind)):
            return "text"
        text = f"{self.path}: column {name!r} is {kind}, which is not a number"
        raise DataError(
            f"{text}; {'leave it out' if classed else 'give it as --label or --keep if it is a class, or name others by --features'}"
        )

    def _check(self, values: Any, column: int, row: int, kind: str, name: str) -> None:
        """Refuse empty cells and numbers that do not fit, by their row."""
        if values.null_count and (kind != "float" or self._options.missing is None):
            first = row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.path}: row {first}, column {name!r}: is empty; give --missing nan (or 0) if numbers may be missing")
        if kind == "int" and (outside := self._beyond_int64(values)) is not None:
            text = f"{self.path}: row {row + outside}, column {name!r}: {values[outside]} is a whole number that int64 cannot hold"
            raise DataError(f"{text}; leave the column out, or write it as text")
        if kind == "float":
            bad = ~np.isfinite(self._numbers(values)) & ~values.is_null().to_numpy(zero_copy_only=False)
            if bad.any():
                first = row + int(bad.argmax())
                raise DataError(
                    f"{self.path}: row {first}, column {name!r}: {values[int(bad.argmax())]} is not a finite {self._options.dtype} number"
                )

    def _beyond_int64(self, values: Any) -> int | None:
        """Return the first row whose number only uint64 holds, or None."""
        plain = values.dictionary_decode() if hasattr(values, "dictionary_decode") else values
        numbers = np.asarray(plain.to_numpy(zero_copy_only=False))
        high = numbers > np.iinfo(np.int64).max if numbers.dtype == np.uint64 else np.zeros(0, bool)
        return int(high.argmax()) if high.any() else None

    def _numbers(self, values: Any) -> np.ndarray:
        plain = values.dictionary_decode() if hasattr(values, "dictionary_decode") else values
        missing = np.nan if self._options.missing is None else self._options.missing
        empty = plain.is_null().to_numpy(zero_copy_only=False)
        numbers = np.array(plain.to_numpy(zero_copy_only=False), np.float64)
        numbers[empty] = missing
        with np.errstate(over="ignore"):
            return numbers.astype(self._options.real)

    def _codes(self, values: Any, column: int, settled: Settled) -> np.ndarray:
        if settled.kinds[column] == "float":
            return self._numbers(values)
        plain = values.dictionary_decode() if hasattr(values, "dictionary_decode") else values
        if settled.kinds[column] == "int":
            return np.asarray(plain.to_numpy(zero_copy_only=False)).astype(np.int64)
        codes = {name: code for code, name in enumerate(settled.classes[column])}
        return np.array([codes[str(text).strip()] for text in plain.to_pylist()], np.int64)
