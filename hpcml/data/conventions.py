"""The CF convention: attributes by which numbers of a file become values, or stand for "no value"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.errors import ShardError

FILLS = ("_FillValue", "missing_value")
"""Both count where both are there; the second may name several numbers."""


def conventions(path: Path, dataset: Any, absent: bool) -> dict[str, Any]:
    """Return scale, shift and fills as the CF attributes of an open data set give them.

    Args:
        path: the file, for messages.
        dataset: an h5py.Dataset of numbers.
        absent: whether parts of it were never written: HDF5's own fill value must then be one of the fills.

    Raises:
        ShardError: for attributes that are no numbers, are several where one is meant, or contradict what HDF5 makes up.
    """
    where, fills = f"{path}: field {dataset.name.lstrip('/')!r}", [fill for key in FILLS for fill in _numbers(path, dataset, key)]
    if str(_text(dataset.attrs.get("_Unsigned", ""))).lower() == "true" and dataset.dtype.kind == "i":
        raise ShardError(f"{where} has _Unsigned = true: its {dataset.dtype} are unsigned numbers; write it as u{dataset.dtype.name}")
    own = np.ravel(dataset.fillvalue)[:1].tolist() if absent else []
    if own and not fills:
        fills = own
    elif own and not any(is_fill(np.array(own, dataset.dtype), fills)):
        text = f"parts of it were never written and read as {own[0]}, which is not its fill value {fills[0]}"
        raise ShardError(f"{where}: {text}; write the shard again")
    return {"scale": _one(path, dataset, "scale_factor", 1.0), "shift": _one(path, dataset, "add_offset", 0.0), "fills": tuple(fills)}


def is_fill(block: np.ndarray, fills: Sequence[float]) -> np.ndarray:
    """Return where numbers of a file stand for "no value", bool of their shape; NaN is a fill value as any other."""
    found = np.zeros(block.shape, np.bool_)
    for fill in fills:
        if fill != fill:
            found |= np.isnan(block)
        elif block.dtype.kind == "f":
            with np.errstate(over="ignore"):
                found |= block == np.asarray(fill).astype(block.dtype)
        else:
            # A whole number is compared as one: as float64, those beyond 2^53 would be another.
            found |= block == (int(fill) if float(fill).is_integer() else fill)
    return found


def _one(path: Path, dataset: Any, key: str, default: float) -> float:
    """Return an attribute that is one number."""
    found = _numbers(path, dataset, key)
    if len(found) > 1:
        raise ShardError(f"{path}: field {dataset.name.lstrip('/')!r}: attribute {key} has {len(found)} numbers, expected one; correct it")
    return float(found[0]) if found else default


def _numbers(path: Path, dataset: Any, key: str) -> list[float]:
    """Return the numbers of an attribute, whole ones as int; an empty list where it is absent."""
    if key not in dataset.attrs:
        return []
    found = np.ravel(dataset.attrs[key])
    if found.dtype.kind not in "iuf":
        text = f"attribute {key} is {_text(dataset.attrs[key])!r}, expected a number"
        raise ShardError(f"{path}: field {dataset.name.lstrip('/')!r}: {text}; correct it, or set data.cf = false")
    numbers: list[float] = found.tolist()
    return numbers


def _text(value: Any) -> Any:
    """Return an attribute's value for people."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value
