"""Carrying over what is not rows: attributes, and data sets that are common to all rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcml.data.contents import Contents
from hpcml.data.shards import open_file


def decorator(source: str | Path, contents: Contents) -> Callable[[Any], None]:
    """Return a function that gives a new h5py file the attributes and common data sets of a shard, for `RowWriter`."""

    def decorate(target: Any) -> None:
        with open_file(source) as file:
            for name in contents.common:
                parent = name.rpartition("/")[0]
                file.copy(file[name], target.require_group(parent) if parent else target, name.rpartition("/")[2])
            _copy_attributes(file, target, contents)

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
