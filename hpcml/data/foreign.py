"""Arrays that are not what they look like, because the program that wrote them says so elsewhere: MATLAB's and AnnData's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcml.errors import ShardError

AT_ONCE = 1 << 20
"""Rows of a mask that are read at once."""


def foreign_rows(dataset: Any) -> str:
    """Return why an open data set has no rows of numbers, whatever it looks like, or ""."""
    if dataset.attrs.get("MATLAB_empty", 0):
        return f"is an empty array of MATLAB, of which its {dataset.shape} numbers are the shape; leave the file out, or save it with rows"
    kind = dataset.attrs.get("MATLAB_class", b"")
    if kind in (b"char", "char"):
        return "is text of MATLAB (char), its numbers are letters; save numbers, such as double(grp2idx(y))"
    return ""


def refuse_masked(path: Path, dataset: Any) -> None:
    """Raise ShardError for a column of AnnData that may have missing values, where its mask says that some are.

    What stands in the column there is made up. Cost: the mask is read once, a byte a row.
    """
    if not dataset.name.endswith("/values"):
        return
    kind = dataset.parent.attrs.get("encoding-type", "")
    mask = dataset.parent.get("mask")
    if not str(kind).startswith("nullable-") or getattr(mask, "shape", None) != dataset.shape:
        return
    count, first = 0, -1
    for start in range(0, len(mask), AT_ONCE):
        rows = np.flatnonzero(mask[start : start + AT_ONCE])
        first = start + int(rows[0]) if first < 0 and len(rows) else first
        count += len(rows)
    if count:
        text = f"{count} of its rows have no value by {mask.name.lstrip('/')!r} (the first is row {first}), its numbers there are made up"
        raise ShardError(
            f"{path}: field {dataset.name.lstrip('/')!r}: {text}; leave these rows out, write floats with NaN and set data.fill,"
            " or set data.cf = false to take the numbers as they stand"
        )
