"""``hpcml data stats``: mean, deviation, extremes, NaN and class counts of every field; the same bits for any number of ranks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hpcml.cli.data_options import Shown, add_rows, add_tool, packing_of

EXAMPLE = """examples:
  hpcml data stats 'data/digits/train-*.h5'
  mpirun -n 4 hpcml data stats 'shards/*.h5' --out stats.json
"""

MOST_CLASSES = 20
"""Classes shown on the screen; --json has up to 1000."""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "stats", "mean, spread, extremes, class counts", __doc__, EXAMPLE)
    parser.add_argument("shards", metavar="GLOB", nargs="+", help="HDF5 shards")
    parser.add_argument("--out", metavar="FILE.json", help="write everything, column by column, as JSON")
    parser.add_argument("--json", action="store_true", help="print it")
    add_rows(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute, and print one line a field."""
    from hpcml.data.manifest import write_json
    from hpcml.data.variable import USUAL
    from hpcml.datasets.checking import statistics
    from hpcml.datasets.dealing import open_all
    from hpcml.train import init

    comm = init()
    packing = USUAL
    with comm.together():
        packing = packing_of(args)
    opened = open_all(args.shards, args.along, comm, packing)
    found = statistics(opened, comm, Shown())
    with comm.together():
        if comm.rank == 0 and args.out:
            write_json(Path(args.out), found)
    if comm.rank == 0:
        print(
            json.dumps(found, indent=1) if args.json else "\n".join([_table(found), *(f"note: {note}" for note in opened.notes)]),
            flush=True,
        )
    return 0


def _table(found: dict[str, Any]) -> str:
    """Return the statistics as text."""
    lines = [f"{found['rows']:,} rows"]
    for name, field in found["fields"].items():
        numbers = "  ".join(f"{key} {_number(field[key])}" for key in ("mean", "std", "min", "max"))
        bad = f"  NaN or infinite {field['not_finite']:,}" if field["not_finite"] else ""
        lines.append(f"{name} {tuple(field['shape'])} {field['dtype']}  {numbers}{bad}")
        classes = list((field["classes"] or {}).items())
        if classes:
            more = f"  and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
            lines.append("  classes  " + "  ".join(f"{value}: {count:,}" for value, count in classes[:MOST_CLASSES]) + more)
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
