"""``hpcml data verify``: read every byte, hold it against the manifest, and name what is wrong by file, data set and rows."""

from __future__ import annotations

import argparse
import json
from typing import Any

from hpcml.cli.data_options import Shown, add_rows, add_tool, packing_of

EXAMPLE = """examples:
  hpcml data verify 'data/digits/train-*.h5' --range y=0:9
  mpirun -n 4 hpcml data verify 'shards/*.h5'
  hpcml data verify 'shards/*.h5' --write

Exit code 1 if anything is wrong. Shards written by hpcml have a manifest.json beside them: sha256 of each file, hashes of its
rows. --write makes one for shards that have none. Without a manifest, what can be read is checked for its schema, NaN and ranges.
"""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "verify", "check shards byte by byte", __doc__, EXAMPLE)
    parser.add_argument("shards", metavar="GLOB", help="HDF5 shards")
    parser.add_argument(
        "--range", metavar="FIELD=LOW:HIGH", action="append", default=[], dest="ranges", help="refuse other values; repeatable"
    )
    parser.add_argument("--allow-nan", action="store_true", help="do not mind NaN and infinity")
    parser.add_argument("--manifest", metavar="FILE", help="the manifest (default: manifest.json beside the shards, if there is one)")
    parser.add_argument("--write", action="store_true", help="write manifest.json beside the shards after they were found right")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_rows(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, print one line for each problem, and return 1 if there is one."""
    from hpcml.data.variable import USUAL
    from hpcml.data.verification import Range, parse_range
    from hpcml.datasets.checking import verify, write_manifest
    from hpcml.train import init

    comm = init()
    ranges, packing = list[Range](), USUAL
    with comm.together():
        packing = packing_of(args)
        ranges = [parse_range(text) for text in args.ranges]
    # With --write the manifest beside the shards is what is to be replaced, so it is no measure of them.
    known = args.manifest if args.manifest or not args.write else ""
    report = verify(args.shards, comm, Shown(), ranges=ranges, along=args.along, allow_nan=args.allow_nan, manifest=known, packing=packing)
    written = write_manifest(args.shards, args.along, comm, Shown(), packing) if args.write and not report.problems else None
    if comm.rank == 0:
        if args.json:
            print(json.dumps({"files": report.files, "manifest": report.manifest, "problems": report.problems}, indent=1), flush=True)
        else:
            for text in report.problems:
                print(text)
            against = f"held against {report.manifest}" if report.manifest else "without a manifest"
            print(f"{len(report.files)} files {against}: {len(report.problems) or 'no'} problem{'s' * (len(report.problems) != 1)}")
            if written is not None:
                print(f"wrote {written}", flush=True)
    return 1 if report.problems else 0
