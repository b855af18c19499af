"""``hpcml evaluate``: a run's newest checkpoint on data with targets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hpcml.cli.begin import begin
from hpcml.errors import ConfigError

EXAMPLE = """examples:
  hpcml evaluate runs/digits
  mpirun -n 2 hpcml evaluate runs/digits --data 'data/digits/train-*.h5'
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "evaluate", help="judge a run's model", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--data", metavar="GLOB", help="HDF5 shards with targets (default: data.test of the run's config)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print one line a metric."""
    from hpcml.opening import open_data
    from hpcml.train.evaluation import evaluate
    from hpcml.trained import load_together
    from hpcml.transforming import load_statistics, transformed

    comm = begin(args)
    trained = load_together(Path(args.folder), comm)
    trained.say_problems(comm)
    keys = trained.config.data
    pattern = args.data or keys.test
    with comm.together():
        if not pattern:
            raise ConfigError(f"{args.folder}: the run's config names no data.test; give --data 'GLOB'")
    data = open_data(pattern, keys.features, keys.target, comm, keys)
    data = transformed(data, trained.config, load_statistics(Path(args.folder), comm), comm)
    with comm.together():
        trained.require_fit(data)
    metrics = evaluate(trained.judge, trained.loss, data, comm, trained.workers)
    if comm.rank == 0:
        print(f"{trained.checkpoint.path.name} of {args.folder} on {data.rows:,} rows of {pattern}")
        for name, value in metrics.items():
            print(f"{name} {value:.6f}", flush=True)
    return 0
