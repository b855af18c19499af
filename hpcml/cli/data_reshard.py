"""``hpcml data reshard``: the same rows in other files, chunks, codec or order, proven by a checksum of all rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hpcml.cli.data_options import Shown, add_rows, add_tool, add_writing, layout_of, packing_of, say_made

EXAMPLE = """examples:
  hpcml data reshard 'data/digits/train-*.h5' --out resharded --files 8
  mpirun -n 4 hpcml data reshard 'raw/*.h5' --out shuffled --shuffle 7 --codec shuffle+gzip:4 --chunk 128

A run that was killed goes on with the same command. All fields and attributes are kept; nothing appears in --out before all
files are finished and the sum of row hashes is the same as before. --shuffle needs room for one more copy while it runs.
"""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "reshard", "write the same rows into other files", __doc__, EXAMPLE)
    parser.add_argument("shards", metavar="GLOB", nargs="+", help="HDF5 shards")
    add_writing(parser)
    parser.add_argument("--files", metavar="N", type=int, default=0, help="number of new shards, instead of --rows-per-shard")
    parser.add_argument("--shuffle", metavar="SEED", type=int, help="put all rows in a random order")
    add_rows(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reshard, and print what was written."""
    from hpcml.data.layout import Layout
    from hpcml.data.variable import USUAL
    from hpcml.datasets.dealing import open_all
    from hpcml.datasets.rewriting import Wish, reshard
    from hpcml.errors import ConfigError
    from hpcml.train import init

    comm = init()
    layout, packing = Layout(), USUAL
    with comm.together():
        layout, packing = layout_of(args), packing_of(args)
        if args.files < 0 or (args.files and args.rows_per_shard):
            raise ConfigError("give --files N of 1 or more, or --rows-per-shard, not both")
        if args.shuffle is not None and args.shuffle < 0:
            raise ConfigError(f"--shuffle {args.shuffle}: a seed is 0 or more")
    opened = open_all(args.shards, args.along, comm, packing)
    made = reshard(opened, Path(args.out), Wish(args.files, args.rows_per_shard, layout, args.shuffle), comm, Shown())
    if comm.rank == 0:
        for note in opened.notes:
            print(f"note: {note}")
        say_made(made, args.out)
    return 0
