"""Names that a file does not have, and those that were meant."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from hpcml.data.variable import Packing, find_group, shown_field
from hpcml.data.walking import walk
from hpcml.errors import ShardError


def suggest(file: Any, name: str) -> str:
    """List the data sets of a file, the one whose name is near first; where a name is a group's, those in it."""
    walked = walk(file)
    names = sorted([*walked.datasets, *(link for link, target in walked.links.items() if target in walked.datasets)])
    inside = [one for one in names if one.startswith(f"{name.strip('/')}/")]
    names, what = (inside, "group") if inside else (names, "file")
    near = [] if inside else difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint}the {what} has the data sets {', '.join(map(repr, names[:20])) or '(none)'}{more}"


def turned(name: str, shape: tuple[int, ...], rows: int) -> str:
    """Return what to do where a field of this shape has its rows on its last axis, "" where it has not."""
    if len(shape) < 2 or shape[-1] != rows:
        return ""
    goal = f"({rows},)" if shape == (1, rows) else f"({rows}, ...)"
    text = f"the shape of {name!r} is {shape}, whose last axis has {rows}: rows come first, write it as {goal}"
    return f"{text} (numpy: .T or .reshape(-1); MATLAB, which turns axes round: save its transpose)"


def _lost_link(file: Any, name: str) -> str:
    """Return where the link on the way to a name leads if it leads nowhere, or in a circle; "" where no link does."""
    import h5py

    steps = name.strip("/").split("/")
    for place in ("/".join(steps[: n + 1]) for n in range(len(steps))):
        try:
            link = file.get(place, getlink=True)
            if link is None or file.get(place) is not None:
                continue
        except (OSError, RuntimeError, KeyError):
            return f"{place!r} is a link that leads in a circle"
        if isinstance(link, h5py.ExternalLink):
            return f"{place!r} is a link to {link.path!r} in the file {link.filename}, which cannot be found"
        if isinstance(link, h5py.SoftLink):
            return f"{place!r} is a link to {link.path!r}, which is not in the file"
    return ""


def refuse_misspelt(path: Path, file: Any, name: str, packing: Packing, free: bool) -> None:
    """Refuse a name whose link leads nowhere, or an absent one that would be the rows of variable length at the root without being free.

    Features may call these rows what they like, but for a name that is nearly another field's.

    Raises:
        ShardError: with where the link leads, or with the data sets that the file has, the near one first.
    """
    lost = _lost_link(file, name)
    if lost:
        raise ShardError(f"{path}: field {name!r} cannot be read: {lost}; mend the link, or copy back what it leads to")
    base = shown_field(file, name)
    if not base.strip("/") or file.get(base) is not None or find_group(file, base, packing) is None:
        return
    hint = suggest(file, name)
    if not free or hint.startswith("did you mean"):
        raise ShardError(f'{path}: field {name!r} is absent; {hint}; rows of variable length at the root of the file are the field "/"')
