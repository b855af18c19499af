"""Attributes by which numbers of a file become values, or stand for "no value": the CF convention, and what other programs do alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.errors import ShardError

FILLS = ("_FillValue", "missing_value")
"""Both count where both are there; the second may name several numbers."""


def conventions(path: Path, dataset: Any, absent: bool) -> dict[str, Any]:
    """Return scale, shift, fills and valid as the attributes of an open data set give them, to be applied.

    Args:
        path: the file, for messages.
        dataset: an h5py.Dataset of numbers.
        absent: whether parts of it were never written: HDF5's own fill value must then be one of the fills.

    Raises:
        ShardError: for attributes that are no numbers, are several where one is meant, or contradict what HDF5 makes up.
    """
    where, fills = _where(path, dataset), _fills(path, dataset)
    if _is_unsigned(dataset):
        raise ShardError(f"{where} has _Unsigned = true: its {dataset.dtype} are unsigned numbers; write it as u{dataset.dtype.name}")
    own = np.ravel(dataset.fillvalue)[:1].tolist() if absent else []
    if own and not fills:
        fills = own
    elif own and not any(is_fill(np.array(own, dataset.dtype), fills)):
        text = f"parts of it were never written and read as {own[0]}, which is not its fill value {fills[0]}"
        raise ShardError(f"{where}: {text}; write the shard again")
    scaled = {"scale": _one(path, dataset, "scale_factor", 1.0), "shift": _one(path, dataset, "add_offset", 0.0)}
    return {**scaled, "fills": tuple(fills), "valid": _valid(path, dataset)}


def suspected(path: Path, dataset: Any) -> dict[str, Any]:
    """Return fills and valid as `conventions`, by which rows are refused, where nobody said whether attributes shall be applied.

    Raises:
        ShardError: for numbers that all mean others than they are.
    """
    found = {key: (_one(path, dataset, key, default), default) for key, default in (("scale_factor", 1.0), ("add_offset", 0.0))}
    changed = [f"{key} = {value:g}" for key, (value, default) in found.items() if value != default]
    changed += ["_Unsigned = true"] if _is_unsigned(dataset) else []
    if changed:
        text = f"attribute {changed[0]} gives its numbers another value"
        raise ShardError(
            f"{_where(path, dataset)}: {text}; set data.cf = true to apply it, or data.cf = false to take the numbers as they stand"
        )
    fills = tuple(fill for fill in _fills(path, dataset) if fill == fill)  # NaN is refused in any case
    valid = _valid(path, dataset)
    return {"fills": fills, "valid": valid, "refuses": bool(fills or valid)}


def _fills(path: Path, dataset: Any) -> list[float]:
    """Return the numbers that stand for "no value": by CF attributes, or as netCDF, AnnData's categories and pandas' times have them."""
    fills = [fill for key in FILLS for fill in _numbers(path, dataset, key)]
    below = netcdf_fill(dataset)
    fills += [] if below is None else [below.item()]
    if _is_codes(dataset):
        fills.append(-1)
    if str(_text(dataset.attrs.get("value_type", ""))).startswith(("datetime64", "timedelta64")) and dataset.dtype.kind == "i":
        fills.append(np.iinfo(np.int64).min)
    return fills


def netcdf_fill(dataset: Any) -> Any:
    """Return the number that netCDF4 laid below a mask without naming it in an attribute, or None; bytes have no such number."""
    from h5py import h5d

    if "_FillValue" in dataset.attrs or dataset.dtype.kind not in "fiu" or dataset.dtype.itemsize == 1:
        return None

    made = "_NCProperties" in dataset.file.attrs or any(key in dataset.attrs for key in ("_Netcdf4Dimid", "_Netcdf4Coordinates"))
    defined = dataset.id.get_create_plist().fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED
    return np.ravel(dataset.fillvalue)[0] if made and defined else None


def _is_codes(dataset: Any) -> bool:
    """Return whether numbers are the codes of AnnData's categories, of which -1 is none."""
    if dataset.name.endswith("/codes"):
        return bool(_text(dataset.parent.attrs.get("encoding-type", "")) == "categorical")
    return "categories" in dataset.attrs and dataset.dtype.kind == "i"  # before AnnData 0.8


def _valid(path: Path, dataset: Any) -> tuple[float, ...]:
    """Return (least, largest) number that is a value, as the attributes valid_range, valid_min and valid_max say; () where they do not."""
    low, high = _numbers(path, dataset, "valid_min")[:1], _numbers(path, dataset, "valid_max")[:1]
    both = _numbers(path, dataset, "valid_range")
    if len(both) == 2:
        return both[0], both[1]
    return (low[0] if low else -np.inf, high[0] if high else np.inf) if low or high else ()


def _is_unsigned(dataset: Any) -> bool:
    return str(_text(dataset.attrs.get("_Unsigned", ""))).lower() == "true" and dataset.dtype.kind == "i"


def _where(path: Path, dataset: Any) -> str:
    return f"{path}: field {dataset.name.lstrip('/')!r}"


def is_fill(block: np.ndarray, fills: Sequence[float], valid: Sequence[float] = ()) -> np.ndarray:
    """Return where numbers of a file stand for "no value", bool of their shape; NaN is a fill value as any other.

    Args:
        block: the numbers.
        fills: those that stand for no value.
        valid: (least, largest) of those that are values, or ().
    """
    found = np.zeros(block.shape, np.bool_)
    if valid:
        found |= (block < valid[0]) | (block > valid[1])
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
        raise ShardError(f"{_where(path, dataset)}: attribute {key} has {len(found)} numbers, expected one; correct it")
    return float(found[0]) if found else default


def _numbers(path: Path, dataset: Any, key: str) -> list[float]:
    """Return the numbers of an attribute, whole ones as int; an empty list where it is absent."""
    if key not in dataset.attrs:
        return []
    found = np.ravel(dataset.attrs[key])
    if found.dtype.kind not in "iuf":
        text = f"attribute {key} is {_text(dataset.attrs[key])!r}, expected a number"
        raise ShardError(f"{_where(path, dataset)}: {text}; correct it, or set data.cf = false")
    numbers: list[float] = found.tolist()
    return numbers


def _text(value: Any) -> Any:
    """Return an attribute's value for people."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value
