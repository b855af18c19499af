"""``hpcml data split``: train, validation and test parts, each row in exactly one, by class and by group if asked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hpcml.cli.data_options import Shown, add_rows, add_tool, add_writing, layout_of, packing_of, say_made

EXAMPLE = """examples:
  hpcml data split 'data/digits/train-*.h5' --out parts --by y --seed 3
  mpirun -n 4 hpcml data split 'scans/*.h5' --out parts --parts train=0.9,test=0.1 --group patient --by y

Files are named by part: train-00000.h5, validation-00000.h5, test-00000.h5. Rows keep their order inside a part unless --shuffle.
"""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "split", "split rows into train, validation and test", __doc__, EXAMPLE)
    parser.add_argument("shards", metavar="GLOB", nargs="+", help="HDF5 shards")
    add_writing(parser)
    parser.add_argument("--parts", metavar="SHARES", default="0.8,0.1,0.1", help="shares, or NAME=SHARE,... (default: 0.8,0.1,0.1)")
    parser.add_argument("--by", metavar="FIELD", help="classes: every part gets each in the same share")
    parser.add_argument("--group", metavar="FIELD", help="groups: the rows of one stay in one part")
    parser.add_argument("--seed", metavar="SEED", type=int, default=0, help="of the choice of rows (default: 0)")
    parser.add_argument("--shuffle", action="store_true", help="put the rows of each part in a random order by the same seed")
    add_rows(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Split, and print the rows of each part."""
    from hpcml.data.layout import Layout
    from hpcml.data.splitting import parse_parts
    from hpcml.data.variable import USUAL
    from hpcml.datasets.dealing import open_all
    from hpcml.datasets.rewriting import Wish, split
    from hpcml.errors import ConfigError
    from hpcml.train import init

    comm = init()
    layout, shares, packing = Layout(), dict[str, float](), USUAL
    with comm.together():
        layout, shares, packing = layout_of(args), parse_parts(args.parts), packing_of(args)
        if args.seed < 0:
            raise ConfigError(f"--seed {args.seed}: a seed is 0 or more")
    opened = open_all(args.shards, args.along, comm, packing)
    wish = Wish(0, args.rows_per_shard, layout, args.seed if args.shuffle else None)
    made = split(opened, Path(args.out), shares, args.by, args.group, wish, args.seed, comm, Shown())
    if comm.rank == 0:
        for note in opened.notes:
            print(f"note: {note}")
        for part in shares:
            rows = sum(entry["rows"] for name, entry in made.entries.items() if name.rpartition("-")[0] == part)
            print(f"{part}: {rows:,} rows, {rows / opened.rows.rows:.1%}")
        say_made(made, args.out)
    return 0
