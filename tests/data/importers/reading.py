"""What the tests of importers share: sources assembled, and rows read with nothing left open."""

from __future__ import annotations

from hpcml.data.importers import Assembly, Options, find_parts, scan_part


def assembled(sources, **options):
    """Return scanned sources as one row space."""
    chosen = Options(**options)
    specs, _, _ = find_parts(list(map(str, sources)), chosen)
    return Assembly(specs, [scan_part(spec, chosen) for spec in specs], chosen)


def read(made, start=0, stop=None):
    """Return rows of an assembly."""
    with made:
        return made.read(start, made.rows if stop is None else stop)
