"""Rows of many shards in another order and other files: each new file reads the runs it needs, or goes by way of spills.

Letters: N rows in all, U rows in a unit. `order[i]` is the old row that becomes new row i; new files are spans of new rows.

- Where every new file takes its rows in ascending order (a copy, a split), it reads them directly, in blocks.
- Else (a shuffle) each unit of U old rows is read once, in sequence, put in order of destination and written as one spill;
  a new file then takes one run out of each spill. Every byte is read twice and written twice, whatever the order is.

Memory: 16 bytes a row for the order and its inverse, one unit or one new file at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpcml.arrays.seeds import stream
from hpcml.data.allrows import read_rows
from hpcml.data.layout import BLOCK_ROWS, Layout
from hpcml.data.packed import count_entries
from hpcml.data.shards import open_file
from hpcml.data.writer import RowWriter

UNIT_BYTES = 128 << 20
"""Old rows of about this many bytes go into one spill."""

BLOCK_BYTES = 8 << 20
"""Rows of about this many bytes are read and written at once."""

Arrays = Mapping[str, np.ndarray]
Fields = Mapping[str, tuple[tuple[int, ...], Any]]


class RowSource(Protocol):
    """Rows that can be read in runs: shards, or files being imported."""

    @property
    def rows(self) -> int:
        """Rows in all."""

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1 of every field."""


@dataclass(frozen=True, slots=True)
class Output:
    """One new file: its name and its span of new rows."""

    name: str
    start: int
    stop: int


def cut(stem: str, start: int, stop: int, rows_each: int) -> list[Output]:
    """Cut new rows into files of `rows_each` rows, the last one shorter, named stem-00000.h5 and so on."""
    starts = range(start, stop, rows_each)
    return [Output(f"{stem}-{i:05d}.h5", first, min(first + rows_each, stop)) for i, first in enumerate(starts)]


def cut_evenly(stem: str, start: int, stop: int, files: int) -> list[Output]:
    """Cut new rows into a number of files whose lengths differ by at most one."""
    edges = [start + (stop - start) * i // files for i in range(files + 1)]
    return [Output(f"{stem}-{i:05d}.h5", edges[i], edges[i + 1]) for i in range(files)]


def shuffled(rows: int, seed: int) -> np.ndarray:
    """Return a permutation of all rows, (rows,) int64, the same for the same seed."""
    return stream(seed, "reshard").permutation(rows).astype(np.int64)


def block_rows(row_bytes: int, layout: Layout) -> int:
    """Return how many rows to write at once: about BLOCK_BYTES, and whole chunks where the layout names their rows."""
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    unit = layout.chunk or BLOCK_ROWS
    return max(unit, rows // unit * unit)


def take_ascending(source: RowSource, rows: np.ndarray, block: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (position, arrays) for consecutive pieces of `rows`, which ascend; each block of the source is read once, or not at all."""
    position = 0
    while position < len(rows):
        first = int(rows[position])
        end = int(np.searchsorted(rows, (first // block + 1) * block))
        wanted = rows[position:end]
        found = source.read(first, int(wanted[-1]) + 1)
        if len(wanted) < int(wanted[-1]) + 1 - first:
            found = {name: values[wanted - first] for name, values in found.items()}
        yield position, found
        position = end


def units(rows: int, size: int) -> list[tuple[int, int]]:
    """Cut the old rows into units of `size` rows, the last one shorter."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def needs_spills(order: np.ndarray, outputs: Sequence[Output]) -> bool:
    """Return whether some new file takes its rows in an order that does not ascend."""
    return any(bool((np.diff(order[output.start : output.stop]) < 0).any()) for output in outputs)


def invert(order: np.ndarray) -> np.ndarray:
    """Return where each old row goes, (N,) int64: the inverse of a permutation."""
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order), dtype=np.int64)
    return inverse


def write_spill(source: RowSource, unit: tuple[int, int], inverse: np.ndarray, fields: Fields, path: Path) -> None:
    """Write the rows of one unit in the order of their destinations."""
    start, stop = unit
    by_goal = np.argsort(inverse[start:stop], kind="stable")
    found = source.read(start, stop)
    with RowWriter(path, stop - start, fields, entries=count_entries(fields, found)) as writer:
        for name, values in found.items():
            writer.write(0, {name: values[by_goal]})


def read_spills(
    paths: Sequence[Path], cuts: Sequence[tuple[int, int]], inverse: np.ndarray, output: Output, fields: Fields
) -> dict[str, np.ndarray]:
    """Return the rows of one new file, in order, from the run that each spill has for it."""
    made = {name: np.empty((output.stop - output.start, *shape), dtype) for name, (shape, dtype) in fields.items()}
    for path, (start, stop) in zip(paths, cuts, strict=True):
        goals = np.sort(inverse[start:stop])
        first, last = np.searchsorted(goals, [output.start, output.stop])
        if first == last:
            continue
        with open_file(path) as file:
            for name, values in made.items():
                values[goals[first:last] - output.start] = read_rows(file, path, name, int(first), int(last), fields[name][1])
    return made
