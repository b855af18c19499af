"""How much of the exchange between hosts hides behind backward: compute alone, exchange alone, and the step that does both.

    mpirun -n 2 python benchmarks/overlap.py [--rows 640] [--sizes 512,512,...,10]      one rank a host

Prints the median seconds of each and longer / step (1 is perfect), and keeps them in benchmarks/results/overlap.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import hpcml
from hpcml.bench.step import slowest_seconds
from hpcml.nn import Tail, softmax_cross_entropy
from hpcml.sync import Nodes
from hpcml.train.conditions import conditions, fix_blas_threads, versions

RESULTS = Path(__file__).parent / "results" / "overlap.json"


def contestants(comm, sizes: list[int], rows: int) -> dict[str, Callable[[], None]]:
    """Return compute alone, exchange alone, one after the other, and overlapped."""
    model = hpcml.nn.mlp(sizes)
    arena = model.arena
    sync = hpcml.EveryStep().start(arena, Nodes(comm), comm.size, hpcml.SGD(0.0, momentum=0.9))
    x = np.random.default_rng(comm.rank).random((rows, sizes[0]), dtype=np.float32)
    y = np.random.default_rng(comm.rank).integers(0, sizes[-1], rows)

    def compute(ready: Callable[[slice], None]) -> None:
        value, slope = softmax_cross_entropy(model.forward(x), y)
        arena.tail[Tail.WEIGHT], arena.tail[Tail.LOSS] = rows, value
        model.backward(slope, ready)

    def step(ready: Callable[[slice], None] | None) -> None:
        sync.enter(comm.rank)
        if ready is not None:
            compute(ready)
        sync.leave(comm.rank, 0)
        sync.update(0, sync.exchange(0))

    def alone() -> None:
        sync.enter(comm.rank)
        compute(lambda span: None)

    return {
        "compute": alone,
        "exchange and update": lambda: step(None),
        "one after the other": lambda: step(lambda span: None),
        "overlapped": lambda: step(sync.ready),
    }


def main() -> int:
    """Measure in turn and report on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", default="512,512,512,512,512,512,512,512,512,512,512,512,10")
    parser.add_argument("--rows", type=int, default=640)
    args = parser.parse_args()
    comm = hpcml.init()
    fix_blas_threads(comm.size, exact=True)
    runs = contestants(comm, [int(size) for size in args.sizes.split(",")], args.rows)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            took = slowest_seconds(comm, run, 3)
            if number:  # the first round warms up
                seconds[name].append(took)
    if comm.rank == 0:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, value in medians.items():
            print(f"{name:22} {value * 1e3:8.1f} ms")
        longer = max(medians["compute"], medians["exchange and update"])
        print(f"longer / overlapped    {longer / medians['overlapped']:8.2f}", flush=True)
        kept = {"date": time.strftime("%Y-%m-%d"), "arguments": vars(args), "ranks": comm.size, "seconds": medians, "rounds": seconds}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept | {"conditions": conditions(), "versions": versions()}, indent=1) + "\n")
    comm.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(main())
