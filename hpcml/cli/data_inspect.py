"""``hpcml data inspect``: how data sets lie in HDF5 files, by which road they are read, how fast, and what would help."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcml.cli.data_options import add_names, add_tool, is_first, packing_of

if TYPE_CHECKING:
    from hpcml.data.inspection import Looks
    from hpcml.data.variable import Packing

EXAMPLE = """examples:
  hpcml data inspect 'data/digits/train-*.h5'
  hpcml data inspect anything.nc --json

The first file is described, the others are compared with it. "amplification" is bytes read for each byte used under the default
shuffle. MB/s are measured by a short read on the road named, by one thread, with the system's cache asked to forget the file, and again.
"""

BATCH = 128
WINDOW = 64
"""The defaults of a job."""

LEAST_BYTES = 1 << 20
"""A speed measured over less is that of opening the file, and is not shown."""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "inspect", "layout, codecs, speed, advice", __doc__, EXAMPLE)
    parser.add_argument("files", metavar="GLOB", nargs="+", help="HDF5 files of any layout")
    add_names(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, and print a table: on rank 0 alone, without MPI."""
    if not is_first():
        return 0
    from hpcml.data.shards import find_shards

    report = inspect(find_shards(args.files), packing_of(args))
    print(json.dumps(report, indent=1) if args.json else "", end="\n" if args.json else "", flush=True)
    if not args.json:
        show(report)
    return 0


def inspect(paths: list[Path], packing: Packing) -> dict[str, Any]:
    """Return everything that is known of the files as plain data."""
    from hpcml.data.inspection import advise, look_for_variable, look_into, measure
    from hpcml.data.layout import BLOCK_ROWS

    first = look_into(paths[0])
    others = [(path, look_into(path)) for path in paths[1:]]
    sizes = [path.stat().st_size for path in paths]
    sets = []
    for one in first:
        rows = [one.rows] + [next((other.rows for other in found if other.name == one.name), 0) for _, found in others]
        entry = asdict(one) | {"rows": sum(rows), "row_bytes": one.row_bytes, "amplification": _amplification(one, rows)}
        speed = measure(paths[0], one.name) if one.is_usable else None
        sets.append(entry | {"speed": None if speed is None else asdict(speed)})
    differences = [(harmless, f"{path}: {text}") for path, found in others for harmless, text in _differences(first, found)]
    refused = [] if all(harmless for harmless, _ in differences) else [UNLIKE]
    return {
        "files": len(paths),
        "bytes": sum(sizes),
        "first": str(paths[0]),
        "sets": sets,
        "variable": look_for_variable(paths[0], packing),
        "differ": [text for _, text in sorted(differences, key=lambda one: one[0])],
        "advice": refused + advise(first, sizes, BLOCK_ROWS),
    }


def _amplification(one: Looks, rows: list[int]) -> float | None:
    """Return bytes read for each byte used, under the default shuffle with blocks of whole chunks, as training chooses them."""
    from hpcml.data.layout import BLOCK_ROWS
    from hpcml.data.planning import amplify
    from hpcml.data.sampler import Sampler

    if not one.is_usable or not all(rows):
        return None
    chunk = one.chunk[0] if one.chunk else 1
    sampler = Sampler(rows, min(BATCH, sum(rows)), 1, 0, "window", -(-BLOCK_ROWS // chunk) * chunk, WINDOW)
    return amplify(sampler, rows, [one.chunk[0] if one.chunk else 0] * len(rows))[0]


UNLIKE = "a data set has another dtype or row shape in some files, which a run refuses: write them alike, or leave those files out"
"""What is said where files cannot be rows of one data set."""


def _differences(first: list[Looks], found: list[Looks]) -> list[tuple[bool, str]]:
    """Return (whether a run may use both, what differs in words) for each difference between two files."""
    old, new = ({one.name: one for one in some} for some in (first, found))
    texts = [(True, f"data set {name!r} is only in one of the files") for name in sorted(old.keys() ^ new.keys())]
    for name in sorted(old.keys() & new.keys()):
        for what in ("dtype", "layout", "chunk", "filters"):
            a, b = getattr(old[name], what), getattr(new[name], what)
            # A short file may have shorter chunks; that costs nothing.
            if (a[1:] != b[1:] or bool(a) != bool(b)) if what == "chunk" else a != b:
                texts.append((what != "dtype", f"{name!r} has {what} {b}, the first file {a}"))
        if old[name].shape[1:] != new[name].shape[1:]:
            texts.append((False, f"{name!r} has rows of {new[name].shape[1:]}, the first file {old[name].shape[1:]}"))
    return texts


MOST_DIFFERENCES = 20
"""Differences that are printed, those first which a run refuses."""

COLUMNS = ("data set", "rows", "row", "dtype", "layout", "codecs", "stored", "road", "ampl.", "MB/s cold", "warm")


def show(report: dict[str, Any]) -> None:
    """Print the report: a table on a terminal, aligned text otherwise."""
    lines = [_cells(one) for one in report["sets"]]
    print(f"{report['files']} files, {report['bytes']:,} bytes; the first is {report['first']}")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS)
        for cells in lines:
            table.add_row(*cells)
        Console().print(table)
    else:
        widths = [max(map(len, column)) for column in zip(COLUMNS, *lines, strict=True)]
        for cells in (COLUMNS, *lines):
            print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    for text in report["variable"]:
        print(f"rows of variable length: {text}")
    for text in report["differ"][:MOST_DIFFERENCES]:
        print(f"differs: {text}")
    if len(report["differ"]) > MOST_DIFFERENCES:
        print(f"differs: and {len(report['differ']) - MOST_DIFFERENCES} more, which --json lists")
    for text in report["advice"] or ["nothing to improve"]:
        print(f"advice: {text}")
    sys.stdout.flush()


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    layout = f"{one['layout']} {'x'.join(map(str, one['chunk']))}".strip()
    dtype = f"{one['dtype']}{' big-endian' if one['order'] == 'big' else ''}"
    share = f"{one['stored'] / one['nbytes']:.0%}" if one["nbytes"] else "-"
    speed = one["speed"]
    numbers = ("-", "-") if speed is None or speed["nbytes"] < LEAST_BYTES else (f"{speed['cold']:.0f}", f"{speed['warm']:.0f}")
    amplification = "-" if one["amplification"] is None else f"{one['amplification']:.2f}"
    row = "x".join(map(str, one["shape"][1:])) or "-"
    return one["name"], f"{one['rows']:,}", row, dtype, layout, "+".join(one["filters"]) or "-", share, one["road"], amplification, *numbers
