"""Memory that the ranks of one node hold together, with and without the nodes' shared memory.

    python benchmarks/memory.py [--ranks 4] [--hidden 4096,4096]

Prints the sum over the ranks of their proportional set size (PSS: shared pages counted once in all), before the model is made
and in training, and keeps both in benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from ranks import command

RESULTS = Path(__file__).parent / "results" / "memory.json"


def main() -> int:
    """Start the ranks twice, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--hidden", default="4096,4096")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        return measure(args)
    found = {}
    for name, limit in (("own copies", "0"), ("one copy a node", "")):
        with tempfile.TemporaryDirectory() as folder:
            text = subprocess.run(
                command(args.ranks, "--folder", folder),
                check=True,
                env=os.environ | {"HPCML_SHARED_BYTES": limit},
                capture_output=True,
                text=True,
            ).stdout
            found[name] = json.loads(text)
            grown, vector = found[name]["grown"] / 1e6, found[name]["vector"] / 1e6
            print(f"{name:16} {grown:8.0f} MB grown in training, a vector of parameters has {vector:.0f} MB")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"date": time.strftime("%Y-%m-%d"), "ranks": args.ranks, "hidden": args.hidden, **found}, indent=1) + "\n"
    )
    return 0


def pss() -> int:
    """Return this process's proportional set size in bytes."""
    return 1024 * int(re.search(r"^Pss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)[1])


def measure(args: argparse.Namespace) -> int:
    """Train two steps and print the growth of the ranks' PSS as JSON on rank 0."""
    import numpy as np

    import hpcml
    from hpcml.bench.step import make_shard, training_step

    comm = hpcml.init()
    sizes = [784, *(int(size) for size in args.hidden.split(",")), 10]
    shard = Path(args.folder) / "rows.h5"
    if comm.rank == 0:
        make_shard(shard, 8 * comm.size, (sizes[0],), sizes[-1])
    comm.barrier()
    before = np.array([pss()], np.int64)
    run = training_step(comm, shard, hpcml.nn.mlp(sizes), 8 * comm.size, hpcml.EveryStep())
    for _ in range(2):
        run()
    comm.barrier()
    after = np.array([pss()], np.int64)
    comm.barrier()
    comm.all_reduce(before)
    comm.all_reduce(after)
    if comm.rank == 0:
        vector = 4 * sum(a * b + b for a, b in pairwise(sizes))
        print(
            json.dumps({"before": int(before[0]), "after": int(after[0]), "grown": int(after[0] - before[0]), "vector": vector}), flush=True
        )
    comm.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(main())
