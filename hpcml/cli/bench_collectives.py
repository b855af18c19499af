"""``hpcml bench collectives``: every road of an all-reduce on this allocation, against what the machine can do at best."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from hpcml.errors import ConfigError, RunError

EXAMPLE = """examples:
  mpirun -n 2 hpcml bench collectives
  mpirun -n 4 hpcml bench collectives --sizes 64K,1M --roads all-reduce,ring,halving --repeats 9
  mpirun -n 2 hpcml bench collectives --tune       # keeps the table that sync.reducer = "auto" reads when train.exact = false
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "collectives",
        help="every road of an all-reduce on this allocation",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", metavar="LIST", help="bytes of the vectors, such as 4K,1M,64M (default: 4 KB to 64 MB, times 4)")
    parser.add_argument("--roads", metavar="LIST", default="", help="names of the roads to compare (default: all)")
    parser.add_argument("--repeats", metavar="N", type=int, default=15, help="timed calls of each road at each size (default: 15)")
    parser.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32", "float64"), help="of the elements")
    parser.add_argument("--tune", action="store_true", help="keep the result as the table that chooses the roads of fast runs")
    parser.add_argument(
        "--out",
        metavar="FILE.json",
        help="where to keep it (default: runs/bench-collectives.json; with --tune $HPCML_COLLECTIVES or runs/collectives.json)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and write JSON and, where matplotlib is there, a picture."""
    from hpcml.bench.collectives import SIZES, measure, report, table_lines
    from hpcml.bench.contestants import select
    from hpcml.bench.picture import draw
    from hpcml.bench.sizes import parse_sizes, shown_bytes
    from hpcml.comm.choice import Table, crossovers, table_path
    from hpcml.comm.roads import number_type
    from hpcml.train import init
    from hpcml.train.recorder import write_whole

    comm = init()
    path = Path(args.out) if args.out else table_path(os.environ) if args.tune else Path("runs/bench-collectives.json")
    with comm.together():
        contestants = select([name for name in args.roads.split(",") if name])
        sizes = parse_sizes(args.sizes) if args.sizes else SIZES
        dtype = number_type(args.dtype)
        if args.repeats < 1:
            raise ConfigError(f"--repeats is {args.repeats}; give 1 or more")
        if comm.rank == 0:
            _make_folder(path)
    notes: list[str] = []
    found = report(comm, measure(comm, contestants, sizes, args.repeats, dtype, notes.append), args.repeats, dtype)
    if comm.rank:
        return 0
    print("\n".join([*table_lines(found), *(f"note: {note}" for note in notes)]))
    write_whole(path, json.dumps(found, indent=1) + "\n")
    print(f"\nkept in {path}", flush=True)
    if draw(found, path.with_suffix(".png")):
        print(f"drawn in {path.with_suffix('.png')}")
    else:
        print("no picture: matplotlib is not installed (pip install matplotlib)")
    if args.tune:
        for size, choice in crossovers(Table.from_json(json.dumps(found), str(path)), sorted(sizes)):
            print(f"auto from {shown_bytes(size)}: {choice}")
    return 0


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent}: cannot be made ({error.strerror}); give another --out") from error
