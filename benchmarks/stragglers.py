"""What slow workers cost each strategy: rows a second with nobody slow, one worker 5x slower for good, and each in its turn.

    python benchmarks/stragglers.py [--ranks 4] [--milliseconds 10] [--steps 100]

A gradient takes some milliseconds of sleep beside its own time, so that a machine with fewer cores than ranks measures waiting, not
its cores. "lost" is the part of the throughput that is lost, "of bsp" that loss as a part of what every-step loses.
Prints a row a strategy and keeps them in benchmarks/results/stragglers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from ranks import start_in_folder

RESULTS = Path(__file__).parent / "results" / "stragglers.json"


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--milliseconds", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turn", type=int, default=10, help="gradients' time for which each worker is the slow one in its turn")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        return measure(args)
    return start_in_folder(args.ranks)


def measure(args: argparse.Namespace) -> int:
    """Measure every strategy under every kind of slowness, and report on rank 0."""
    import hpcml
    from hpcml.bench.step import make_shard
    from hpcml.bench.stragglers import Straggler, rows_per_second
    from hpcml.sync.server import ASP, BAP, BSP, SSP, TAP, GossipLearning, ParameterServer

    comm = hpcml.init()
    batch, sizes = 8 * comm.size, [16, 32, 4]
    shard = Path(args.folder) / "rows.h5"
    if comm.rank == 0:
        make_shard(shard, batch * args.steps, sizes[0], sizes[-1])
    comm.barrier()
    strategies = {
        "every-step": hpcml.EveryStep(),
        "server, bsp": ParameterServer(BSP()),
        "server, bsp, 1 spare": ParameterServer(BSP(), spare=1),
        "server, ssp 10": ParameterServer(SSP(10)),
        "server, asp 0.01, 10": ParameterServer(ASP(0.01, 10)),
        "server, bap": ParameterServer(BAP()),
        "server, tap": ParameterServer(TAP()),
        "gossip learning": GossipLearning(),
        "gossip learning, taking over": GossipLearning(stealing=True),
        "server, ssp 10, taking over": ParameterServer(SSP(10), stealing=True),
        "server, asp 0.01, 10, taking over": ParameterServer(ASP(0.01, 10), stealing=True),
        "server, bap, taking over": ParameterServer(BAP(), stealing=True),
        "server, tap, taking over": ParameterServer(TAP(), stealing=True),
    }
    seconds = args.milliseconds / 1e3
    slowness = {"nobody": (1.0, 0), "one for good": (5.0, 0), "in turns": (5.0, args.turn)}
    rows = []
    for name, sync in strategies.items():
        speeds = {
            kind: rows_per_second(comm, shard, sizes, batch, sync, Straggler(seconds, *how), epochs=1) for kind, how in slowness.items()
        }
        rows.append({"strategy": name, **speeds})
        if comm.rank == 0:
            print(report(rows), flush=True)
    if comm.rank == 0:
        RESULTS.parent.mkdir(exist_ok=True)
        kept = {"ranks": comm.size, "cores": os.cpu_count(), "host": platform.machine(), "arguments": vars(args) | {"folder": ""}}
        RESULTS.write_text(json.dumps({**kept, "rows": rows}, indent=1) + "\n")
    return 0


def report(rows: list[dict]) -> str:
    """Return the last row as a line."""
    first, last = rows[0], rows[-1]
    text = f"{last['strategy']:34}  nobody slow {last['nobody']:7,.0f} rows/s"
    for kind in ("one for good", "in turns"):
        lost, of = 1 - last[kind] / last["nobody"], 1 - first[kind] / first["nobody"]
        text += f"   {kind}: lost {lost:4.0%} ({lost / of:4.0%} of bsp)"
    return text


if __name__ == "__main__":
    sys.exit(main())
