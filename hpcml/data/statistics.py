"""Mean, spread, extremes and counts of every field, to the same bits for any number of readers.

The rows are cut into LEAVES spans, each is walked in blocks of a fixed size, and spans are joined along one binary tree
whose shape depends on nothing: whoever computed a leaf, the additions are the same ones in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcml.arrays.spans import span
from hpcml.data.contents import Contents
from hpcml.data.gathering import RowSource

LEAVES = 256
"""Spans of the tree, a power of two: more readers than this gain nothing."""

BLOCK_BYTES = 4 << 20
MOST_CLASSES = 1000
"""A whole-number field with more different values than this is not counted by class."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of the columns of a field after some rows.

    Args:
        table: (6, d) float64: count of finite values, mean, sum of squared distances from it, least, largest, values that are not finite.
        classes: value -> count for whole numbers of one column, or None where there are too many or none.
    """

    table: np.ndarray
    classes: dict[int, int] | None

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of each column, (d,): that of the population (divided by the count, as numpy's std), 0 without values."""
        return np.sqrt(np.divide(self.table[2], self.table[0], out=np.zeros_like(self.table[2]), where=self.table[0] > 0))

    @property
    def count(self) -> int:
        """Finite values of all columns."""
        return int(self.table[0].sum())


def moments(values: np.ndarray) -> Moments:
    """Return the moments of rows (n, *shape), n of 1 or more, of any dtype of numbers."""
    flat = values.reshape(len(values), -1)
    wide = flat.astype(np.float64)
    count = np.full(wide.shape[1], float(len(wide)))
    with np.errstate(invalid="ignore"):
        low, high = wide.min(axis=0), wide.max(axis=0)  # NaN where a column has one
    base, bad = low, None
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        bad = ~np.isfinite(wide)
        count -= bad.sum(axis=0)
        low, high = np.where(bad, np.inf, wide).min(axis=0), np.where(bad, -np.inf, wide).max(axis=0)
        base = np.where(count > 0, low, 0.0)
        wide[bad] = 0.0
    # Relative to the least value: a column that never changes has its own value as mean and a deviation of 0, to the last bit.
    wide -= base
    if bad is not None:
        wide[bad] = 0.0
    mean = wide.sum(axis=0) / np.maximum(count, 1)
    wide -= mean
    if bad is not None:
        wide[bad] = 0.0
    table = np.stack([count, base + mean, np.square(wide, out=wide).sum(axis=0), low, high, len(wide) - count])
    classes = _count(flat) if flat.shape[1] == 1 and values.ndim == 1 and values.dtype.kind in "iub" else None
    return Moments(table, classes)


def _count(flat: np.ndarray) -> dict[int, int] | None:
    values, counts = np.unique(flat, return_counts=True)
    if len(values) > MOST_CLASSES:
        return None
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the rows of a and b together; where one has no rows, the other as it is."""
    if not a.table[[0, 5]].any():
        return b
    if not b.table[[0, 5]].any():
        return a
    x, y = a.table, b.table
    count = x[0] + y[0]
    share = np.divide(y[0], count, out=np.zeros_like(count), where=count > 0)
    distance = y[1] - x[1]
    table = np.stack(
        [
            count,
            x[1] + distance * share,
            x[2] + y[2] + np.square(distance) * x[0] * share,
            np.minimum(x[3], y[3]),
            np.maximum(x[4], y[4]),
            x[5] + y[5],
        ]
    )
    return Moments(table, _merge_counts(a.classes, b.classes))


def _merge_counts(a: dict[int, int] | None, b: dict[int, int] | None) -> dict[int, int] | None:
    if a is None or b is None:
        return None
    joint = {value: a.get(value, 0) + b.get(value, 0) for value in sorted(a.keys() | b.keys())}
    return joint if len(joint) <= MOST_CLASSES else None


Nodes = dict[tuple[int, int], dict[str, Moments]]
"""(level, index) of the tree -> field -> moments; level 0 are the leaves."""


def leaf(source: RowSource, step: int, index: int) -> dict[str, Moments]:
    """Return the moments of every field of numbers over the rows of one leaf, `step` rows at a time; without rows, nothing."""
    part = span(source.rows, LEAVES, index)
    found: dict[str, Moments] = {}
    for start in range(part.start, part.stop, step):
        for name, values in source.read(start, min(start + step, part.stop)).items():
            if values.dtype.kind in "fiub" and len(values):
                new = moments(values)
                found[name] = merge(found[name], new) if name in found else new
    return found


def fold(nodes: Nodes) -> Nodes:
    """Return the nodes with every pair of siblings joined, as far up as they go; the whole tree ends in one root."""
    nodes = dict(nodes)
    for level in range(LEAVES.bit_length() - 1):
        for index in sorted(index for at, index in nodes if at == level and not index % 2):
            if (level, index + 1) in nodes:
                a, b = nodes.pop((level, index)), nodes.pop((level, index + 1))
                names = sorted(a.keys() | b.keys())
                nodes[level + 1, index // 2] = {n: merge(a[n], b[n]) if n in a and n in b else a.get(n) or b[n] for n in names}
    return nodes


def pack(nodes: Nodes) -> bytes:
    """Return nodes as bytes, exactly: a line of JSON, then the tables."""
    heads, tables = [], []
    for (level, index), fields in nodes.items():
        heads.append(
            [level, index, [[name, m.table.shape[1], None if m.classes is None else list(m.classes.items())] for name, m in fields.items()]]
        )
        tables += [m.table.tobytes() for m in fields.values()]
    return json.dumps(heads).encode() + b"\n" + b"".join(tables)


def unpack(text: bytes) -> Nodes:
    """Return the nodes that `pack` wrote."""
    head, _, body = text.partition(b"\n")
    nodes: Nodes = {}
    for level, index, fields in json.loads(head):
        made = nodes[level, index] = {}
        for name, width, classes in fields:
            table = np.frombuffer(body[: 48 * width], np.float64).reshape(6, width).copy()
            body = body[48 * width :]
            made[name] = Moments(table, None if classes is None else {int(k): int(v) for k, v in classes})
    return nodes


def summarise(root: Mapping[str, Moments], rows: int, contents: Contents) -> dict[str, Any]:
    """Return the statistics as plain data: rows, and for each field its shape, dtype, overall and column numbers, class counts.

    Columns are in C order of the row shape.
    """
    fields = {}
    for name, found in root.items():
        count, mean, _, low, high, bad = found.table
        shape, dtype = contents.schema()[name]
        columns = {"mean": mean, "std": found.deviation, "min": low, "max": high}
        fields[name] = {
            "shape": shape,
            "dtype": dtype,
            **_overall(found),
            "classes": None if found.classes is None else {str(k): v for k, v in found.classes.items()},
            "columns": {**{key: _plain(values, count) for key, values in columns.items()}, "not_finite": bad.astype(int).tolist()},
        }
    return {"rows": rows, "fields": fields}


def _plain(values: np.ndarray, count: np.ndarray) -> list[float | None]:
    """Return numbers for JSON: None for what a column without finite values does not have."""
    return [float(value) if n else None for value, n in zip(values, count, strict=True)]


def _overall(found: Moments) -> dict[str, Any]:
    """Return the numbers over all columns together, joined from left to right."""
    count, mean, squares, low, high, bad = found.table
    n = float(count.sum())
    if not n:
        return {"mean": None, "std": None, "min": None, "max": None, "not_finite": int(bad.sum())}
    centre = float((mean * count).sum() / n)
    spread = float((squares + count * np.square(mean - centre)).sum() / n)
    return {"mean": centre, "std": spread**0.5, "min": float(low.min()), "max": float(high.max()), "not_finite": int(bad.sum())}
