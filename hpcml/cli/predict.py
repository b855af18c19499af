"""``hpcml predict``: what a run's model says of rows, as an HDF5 file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hpcml.cli.begin import begin
from hpcml.errors import RunError

EXAMPLE = """example:
  mpirun -n 2 hpcml predict runs/digits --data 'data/digits/test-*.h5' --out predictions.h5
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "predict",
        help="apply a run's model to rows",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--data", metavar="GLOB", required=True, help="HDF5 shards; a target is not needed")
    parser.add_argument(
        "--out", metavar="FILE.h5", required=True, help="the file to write: prediction (rows, k) and, for classes, class (rows,)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, write the file whole or not at all, and print what it holds."""
    import msgspec

    from hpcml.opening import open_data
    from hpcml.train.prediction import predict_to_file
    from hpcml.trained import load_together
    from hpcml.transforming import load_statistics, transformed

    comm = begin(args)
    with comm.together():
        if comm.rank == 0 and Path(args.out).is_dir():
            raise RunError(f"{args.out}: is a folder; give --out the name of a file, such as {Path(args.out) / 'predictions.h5'}")
    trained = load_together(Path(args.folder), comm)
    trained.say_problems(comm)
    keys = msgspec.structs.replace(trained.config.data, weights="")
    data = open_data(args.data, keys.features, None, comm, keys)
    data = transformed(data, trained.config, load_statistics(Path(args.folder), comm), comm)
    with comm.together():
        trained.require_fit(data)
    names = predict_to_file(trained.judge, trained.loss, data, comm, Path(args.out))
    if comm.rank == 0:
        print(f"{', '.join(names)} of {data.rows:,} rows written to {args.out}", flush=True)
    return 0
