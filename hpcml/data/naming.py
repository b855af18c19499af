"""Names that a file does not have, and those that were meant."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from hpcml.data.variable import Packing, find_group, shown_field
from hpcml.errors import ShardError


def suggest(file: Any, name: str) -> str:
    """List the data sets of a file, the one whose name is near first."""
    import h5py

    names: list[str] = []
    file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint}the file has the data sets {', '.join(map(repr, names[:20])) or '(none)'}{more}"


def refuse_misspelt(path: Path, file: Any, name: str, packing: Packing, free: bool) -> None:
    """Refuse an absent name that would become the rows of variable length at the file's root, unless it is free to be any name.

    Features may call these rows what they like, but for a name that is nearly another field's.

    Raises:
        ShardError: with the data sets that the file has, the near one first.
    """
    base = shown_field(file, name)
    if not base.strip("/") or file.get(base) is not None or find_group(file, base, packing) is None:
        return
    hint = suggest(file, name)
    if not free or hint.startswith("did you mean"):
        raise ShardError(f'{path}: field {name!r} is absent; {hint}; rows of variable length at the root of the file are the field "/"')
