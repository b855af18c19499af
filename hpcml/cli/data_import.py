"""``hpcml data import``: CSV, NPY, NPZ, IDX, image folders and Parquet as HDF5 shards."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcml.cli.data_options import Shown, add_tool, add_writing, layout_of, say_made

if TYPE_CHECKING:
    from hpcml.data.importers.options import Options

EXAMPLE = """examples:
  hpcml data import table.csv --label species --out shards
  hpcml data import x=train-images-idx3-ubyte.gz y=train-labels-idx1-ubyte.gz --out mnist
  hpcml data import arrays.npz --out shards --codec shuffle+gzip:4
  hpcml data import photos/ --size 64x64 --out shards              one folder a class
  mpirun -n 4 hpcml data import 'tables/*.csv' --label y --keep patient --missing nan --out shards

Text becomes whole numbers, in the order of the sorted texts; the texts are the attribute "classes" of the field. A row with
another number of cells, an empty cell, a number that is not finite: refused with file, line and column, and nothing is written.
A run that was killed goes on with the same command.
"""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "import", "CSV, NPY, NPZ, IDX, images, Parquet to shards", __doc__, EXAMPLE)
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a file, a glob, a folder of images, or FIELD=FILE for NPY and IDX")
    add_writing(parser)
    parser.add_argument("--format", default="", help="csv, npy, npz, idx, images or parquet (default: by the name)")
    parser.add_argument("--label", metavar="COLUMN", default="", help="the column that becomes y")
    parser.add_argument("--features", metavar="A,B", default="", help="the columns that become x (default: all others); arrays of an NPZ")
    parser.add_argument(
        "--keep", metavar="COLUMN", action="append", default=[], help="a column that becomes a field of its own; repeatable"
    )
    parser.add_argument("--missing", metavar="NUMBER", type=float, help="what an empty cell becomes, such as nan or 0 (default: refused)")
    parser.add_argument("--no-header", action="store_true", help="the first line is a row; columns are called column-1, column-2, ...")
    parser.add_argument("--delimiter", metavar="CHARACTER", default="", help="of a CSV (default: comma, or tab in .tsv)")
    parser.add_argument("--dtype", default="float32", help="of x: float32, float64 or float16 (default: float32)")
    parser.add_argument("--size", metavar="HxW", help="bring images to this height and width")
    parser.add_argument("--mode", default="", help="convert images: L (grey), RGB or RGBA")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and print what was written."""
    from hpcml.data.importers.options import Options
    from hpcml.data.layout import Layout
    from hpcml.datasets.importing import import_sources
    from hpcml.datasets.rewriting import Wish
    from hpcml.train import init

    comm = init()
    layout, options = Layout(), Options()
    with comm.together():
        layout, options = layout_of(args), options_of(args)
    done = import_sources(args.sources, options, Path(args.out), Wish(0, args.rows_per_shard, layout), comm, Shown())
    if comm.rank == 0:
        for note in done.notes:
            print(f"note: {note}")
        say_made(done.made, args.out)
    return 0


def options_of(args: argparse.Namespace) -> Options:
    """Return what the command line says about the sources.

    Raises:
        ConfigError: for what contradicts itself.
    """
    from hpcml.data.importers.options import Options
    from hpcml.errors import ConfigError

    size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", args.size) if args.size else None
    if args.size and size is None:
        raise ConfigError(f"--size {args.size!r}: expected HEIGHTxWIDTH, such as 64x64")
    if args.mode not in ("", "L", "RGB", "RGBA"):
        raise ConfigError(f"--mode {args.mode!r}; choose L, RGB or RGBA")
    return Options(
        format=args.format,
        label=args.label,
        features=tuple(name.strip() for name in args.features.split(",") if name.strip()),
        keep=tuple(args.keep),
        missing=args.missing,
        header=not args.no_header,
        delimiter={"\\t": "\t"}.get(args.delimiter, args.delimiter),
        dtype=args.dtype,
        size=(int(size[1]), int(size[2])) if size else None,
        mode=args.mode,
    )
