"""``hpcml data plan``: what each shuffle costs for a job's data and how well it mixes, and which one to take."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpcml.cli.data_options import add_tool, is_first

if TYPE_CHECKING:
    import numpy as np

    from hpcml.config import Config
    from hpcml.data.index import Index

EXAMPLE = """examples:
  hpcml data plan jobs/digits.toml
  hpcml data plan jobs/digits.toml --set train.batch=32 --set data.window=16 --json

displacement: how far rows are from their place in the files, 1 as under a perfect shuffle. labels, files: how far a batch is from
the whole in its classes, and in where its rows come from; 1 is as under a perfect shuffle, larger is worse.
"""


def add_to(tools: Any) -> None:
    """Add the tool's parser."""
    parser = add_tool(tools, "plan", "cost and quality of each shuffle", __doc__, EXAMPLE)
    parser.add_argument("config", metavar="CONFIG", help="the job's TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="changes", help="change a key; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a line for each shuffle: on rank 0 alone, without MPI."""
    if not is_first():
        return 0
    from hpcml.config import load

    report = plan(load(args.config, args.changes))
    if args.json:
        print(json.dumps(report, indent=1), flush=True)
        return 0
    chosen = report["config"]
    print(f"{report['rows']:,} rows in {report['shards']} shards; labels are {report['labels']}; ", end="")
    print(f"batch {chosen['batch']}, block {chosen['block']}, window {chosen['window']}, {chosen['workers']} virtual workers")
    print(f"{'shuffle':8} {'ampl.':>6} {'reads an epoch':>15} {'memory a worker':>16} {'displacement':>13} {'labels':>7} {'files':>7}")
    for one in report["shuffles"]:
        numbers = f"{one['amplification']:6.2f} {one['reads']:15,} {one['memory']:16,} {one['displacement']:13.2f}"
        print(f"{one['shuffle']:8} {numbers} {one['labels']:7.2f} {one['stretches']:7.2f}")
    for text in report["advice"]:
        print(f"advice: {text}")
    print(f"recommended: {report['recommended']} (the config has {chosen['shuffle']})", flush=True)
    return 0


def plan(config: Config) -> dict[str, Any]:
    """Return the numbers of every shuffle for a job's training data, as plain data.

    Raises:
        HpcmlError: for data or numbers that cannot be run.
    """
    from hpcml.build import resolve_sampling
    from hpcml.data import Sampler, ShardedDataset, find_shards, index_shards
    from hpcml.data.planning import assess, classes_of, recommend
    from hpcml.data.sampler import SHUFFLES
    from hpcml.opening import reading

    index = index_shards(find_shards(config.data.train), config.data.features, config.data.target or None, **reading(config.data))
    keys = resolve_sampling(config, ShardedDataset(index), ranks=1).data
    names = {part.name for part in index.x.stored}
    chunks = [max(stored.chunk[0] if stored.chunk else 0 for name, stored in shard.fields if name in names) for shard in index.shards]
    codes, what = classes_of(_targets(index), index.rows)
    workers = config.train.virtual_workers or 1
    found = []
    for shuffle in SHUFFLES:
        sampler = Sampler(index.shard_rows, config.train.batch, workers, config.train.seed, shuffle, keys.block, keys.window)
        found.append(assess(sampler, index.shard_rows, chunks, codes, _row_bytes(index, config)))
    best, texts = recommend(found, max(chunks), keys.block)
    chosen = {"shuffle": keys.shuffle, "batch": config.train.batch, "block": keys.block, "window": keys.window, "workers": workers}
    return {
        "rows": index.rows,
        "shards": len(index.shards),
        "labels": what,
        "config": chosen,
        "shuffles": [asdict(one) for one in found],
        "recommended": best,
        "advice": texts,
    }


def _row_bytes(index: Index, config: Config) -> int:
    """Return the bytes of one row in memory: features, target, row number."""
    import math

    import numpy as np

    real = np.dtype(config.model.dtype)
    target = 0 if index.y is None else math.prod(index.y.shape) * index.y.memory_dtype(real).itemsize
    return math.prod(index.x.shape) * real.itemsize + target + 8


def _targets(index: Index) -> np.ndarray | None:
    """Return the target of every row, or None where rows have none or more than one number."""
    import numpy as np

    from hpcml.data import ShardedDataset

    if index.y is None or index.y.shape:
        return None
    kind = index.y.memory_dtype(np.float32)
    values = np.empty(index.rows, kind)
    rows = type(index)(index.y, None, index.shards)
    with ShardedDataset(rows) as data:
        data.read(0, index.rows, values)
    return values
