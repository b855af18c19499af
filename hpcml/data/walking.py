"""Everything that a file shows, also behind links: what `visititems` leaves out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Walked:
    """What a file shows.

    Args:
        root: the open file.
        items: name -> data set or group, each once, in the order of the names; behind links to other files too.
        links: other names in the file of what is among the items (soft links, second hard ones) -> the name there.
        lost: name of a link that leads nowhere -> where it leads.
    """

    root: Any
    items: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def datasets(self) -> dict[str, Any]:
        """The data sets."""
        return {name: item for name, item in self.items.items() if not hasattr(item, "keys")}


def walk(file: Any) -> Walked:
    """Return what an open file shows; a group behind a link to another file is walked too, unless that leads in a circle."""
    found = Walked(file)
    _walk(file, "", found, {_place(file)})
    for one in (found.items, found.links, found.lost):
        ordered = sorted(one.items())
        one.clear()
        one.update(ordered)
    return found


def _walk(group: Any, prefix: str, found: Walked, way: set[tuple[str, int]]) -> None:
    """Add what a group shows under names that begin with a prefix.

    Args:
        group: of an open file.
        prefix: its name with a slash behind, or "".
        found: added to.
        way: the groups that led here, by their place.
    """
    import h5py

    held: dict[str, Any] = {}
    links: list[tuple[str, Any]] = []
    group.visititems(lambda name, item: held.__setitem__(name, item))
    group.visititems_links(lambda name, link: links.append((name, link)) if name not in held else None)
    found.items.update({prefix + name: item for name, item in held.items() if not isinstance(item, h5py.Datatype)})
    names = {item: name for name, item in held.items()} if links else {}
    for name, link in links:
        try:
            item = group.get(name)
        except (OSError, RuntimeError, KeyError):
            item = None
        if item is None:
            place = repr(getattr(link, "path", ""))
            found.lost[prefix + name] = f"{place} in the file {link.filename}" if isinstance(link, h5py.ExternalLink) else place
        elif item in names:
            found.links[prefix + name] = prefix + names[item]
        elif isinstance(item, h5py.Dataset):
            found.items[prefix + name] = item
        elif isinstance(item, h5py.Group) and _place(item) not in way:
            found.items[prefix + name] = item
            _walk(item, f"{prefix}{name}/", found, way | {_place(item)})


def _place(group: Any) -> tuple[str, int]:
    """Return the file of a group, and its address there."""
    from h5py import h5o

    return os.path.realpath(group.file.filename), int(h5o.get_info(group.id).addr)
