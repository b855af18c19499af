"""Carrying over what is not rows: attributes, and data sets that are common to all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.data.contents import Contents
from hpcml.data.conventions import netcdf_fill
from hpcml.data.shards import open_file
from hpcml.data.variable import SHAPES, SPARSE


def decorator(source: str | Path, contents: Contents) -> Callable[[Any], None]:
    """Return a function that gives a new h5py file the attributes, common data sets and links of a shard, for `RowWriter`."""

    def decorate(target: Any) -> None:
        import h5py

        with open_file(source) as file:
            for name in contents.common:
                parent = name.rpartition("/")[0]
                file.copy(file[name], target.require_group(parent) if parent else target, name.rpartition("/")[2])
            _copy_attributes(file, target, contents)
            for name, names in contents.variable.items():
                if name in contents.fields:
                    _copy_shape(file[name], target[name], names)
            for name, goal in contents.links.items():
                target[name] = h5py.SoftLink(f"/{goal}")

    return decorate


def _copy_attributes(file: Any, target: Any, contents: Contents) -> None:
    """Write every attribute whose value does not point to an object; common data sets have brought their own."""
    for place in contents.attributes:
        name, _, key = place.rpartition("@")
        if name in contents.common:
            continue
        source = file[name] if name else file
        goal = target.require_group(name) if name and name not in target else (target[name] if name else target)
        goal.attrs.create(key, source.attrs[key], dtype=source.attrs.get_id(key).dtype)
    for name in contents.fields:
        fill = netcdf_fill(file[name]) if name not in contents.variable else None
        if fill is not None:  # it stood in the data set's properties, which new ones do not have
            target[name].attrs["_FillValue"] = fill


def _copy_shape(source: Any, goal: Any, names: Sequence[str]) -> None:
    """Write the shape of sparse rows where the source has it, with the rows of the new file."""
    old, new = (group[names[-1]].shape[0] - 1 for group in (source, goal))

    def renewed(found: Any) -> Any:
        numbers = np.array(found)
        where = np.flatnonzero(numbers == old)[:1]
        numbers[where] = new
        return numbers

    for key in SHAPES:
        if key in source.attrs:
            goal.attrs.create(key, renewed(source.attrs[key]), dtype=source.attrs.get_id(key).dtype)
    if len(names) == len(SPARSE) and source.get("shape") is not None:
        goal.create_dataset("shape", data=renewed(source["shape"][()]), track_times=False)
