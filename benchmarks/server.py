"""An MLP on four ranks: an all-reduce each step, and a parameter server with every rank both; rows a second, and bytes beside the formula.

    python benchmarks/server.py [--ranks 4] [--sizes 784,1024,1024,10] [--rows 128] [--steps 20] [--rounds 3]

The formula is the survey's for a node that is both worker and server: 4 n (P - 1) / P numbers a step, sent and received, so half as many
sent. Prints a row a contestant and keeps them in benchmarks/results/server.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from ranks import start_in_folder

RESULTS = Path(__file__).parent / "results" / "server.json"


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--sizes", default="784,1024,1024,10")
    parser.add_argument("--rows", type=int, default=128, help="rows of the batch for each rank")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        return measure(args)
    return start_in_folder(args.ranks)


def measure(args: argparse.Namespace) -> int:
    """Measure all contestants in turn, round after round, and report on rank 0."""
    import hpcml
    from hpcml.bench.step import make_shard
    from hpcml.sync.server import ASP, BAP, BSP, SSP, TAP, ParameterServer

    comm = hpcml.init()
    sizes, batch = [int(size) for size in args.sizes.split(",")], args.rows * comm.size
    shard = Path(args.folder) / "rows.h5"
    if comm.rank == 0:
        make_shard(shard, batch * args.steps, sizes[0], sizes[-1])
    comm.barrier()
    contestants = {
        "every-step, the library's all-reduce": hpcml.EveryStep(hpcml.SUMS["all-reduce"]),
        "every-step, exact": hpcml.EveryStep(),
        **{
            f"server, {name}": ParameterServer(model)
            for name, model in {"bsp": BSP(), "ssp 3": SSP(3), "asp 0.01, 8": ASP(), "bap": BAP(), "tap": TAP()}.items()
        },
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    sent: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, sync in contestants.items():
            data, model = hpcml.open_shards(shard), hpcml.nn.mlp(sizes)
            rule = hpcml.SGD(0.01, momentum=0.9)
            trainer = hpcml.Trainer(
                model, hpcml.nn.softmax_cross_entropy, rule, sync, data, batch=batch, comm=comm, device="cpu", threads=1, hooks=()
            )
            comm.barrier()
            began = time.perf_counter()
            trainer.run(1)
            speeds[name].append(data.rows / (time.perf_counter() - began))
            sent[name] = getattr(trainer.sync, "measured", {}).get("bytes_sent", 0.0)
            numbers = model.arena.n
            trainer.close()
    if comm.rank == 0:
        formula = 2 * numbers * 4 * (comm.size - 1) * args.steps
        keep(args, comm.size, formula, speeds, sent)
    return 0


def keep(args: argparse.Namespace, ranks: int, formula: float, speeds: dict[str, list[float]], sent: dict[str, float]) -> None:
    """Print and write a row a contestant."""
    first = statistics.median(next(iter(speeds.values())))
    rows = []
    for name, found in speeds.items():
        row = {"contestant": name, "rows_per_second": statistics.median(found), "of_all_reduce": statistics.median(found) / first}
        text = f"{name:38} {row['rows_per_second']:8,.0f} rows/s  {row['of_all_reduce']:5.2f} of the all-reduce"
        if sent[name]:
            row |= {"bytes_sent": sent[name], "bytes_by_formula": formula}
            text += f"   {sent[name] / 1e6:8,.1f} MB sent, {formula / 1e6:8,.1f} by the formula"
        print(text, flush=True)
        rows.append(row)
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {"ranks": ranks, "cores": os.cpu_count(), "host": platform.machine(), "arguments": vars(args) | {"folder": ""}}
    RESULTS.write_text(json.dumps({**kept, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
