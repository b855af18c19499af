"""A training step of an MLP on two ranks: hpcml's roads, and PyTorch DDP with Gloo where PyTorch is installed, interleaved.

    python benchmarks/step.py [--ranks 2] [--rounds 9] [--sizes 784,1024,1024,10] [--rows 128]

Prints a row a contestant and keeps them in benchmarks/results/step.json. Each rank has one BLAS thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ALONE = "hpcml exact, one rank"
RESULTS = Path(__file__).parent / "results" / "step.json"


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=10, help="steps in a round")
    parser.add_argument("--sizes", default="784,1024,1024,10")
    parser.add_argument("--rows", type=int, default=128, help="rows of the batch for each rank")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        return measure(args)
    mpirun = Path(sys.executable).with_name("mpirun")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(mpirun) if mpirun.exists() else "mpirun", "-n", str(args.ranks), sys.executable, *sys.argv, "--folder", folder]
        return subprocess.run(command, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode


def measure(args: argparse.Namespace) -> int:
    """Measure all contestants in turn, round after round, and report on rank 0."""
    import hpcml
    from hpcml.bench.step import make_shard, slowest_seconds

    comm = hpcml.init()
    sizes, batch = [int(size) for size in args.sizes.split(",")], args.rows * comm.size
    shard = Path(args.folder) / "rows.h5"
    if comm.rank == 0:
        make_shard(shard, batch, sizes[0], sizes[-1])
    comm.barrier()
    runs = contestants(comm, shard, sizes, batch)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            took = slowest_seconds(comm, run, args.repeats)
            if number:  # the first round warms up
                seconds[name].append(took)
    if comm.rank == 0:
        report(args, {name: statistics.median(values) for name, values in seconds.items()}, batch, seconds)
    comm.barrier()
    return 0


def contestants(comm, shard: Path, sizes: list[int], batch: int) -> dict[str, Callable[[], None]]:
    """Return a step function for each contestant that can be had here."""
    import hpcml
    from hpcml.bench.step import mlp_step

    ways = {"exact": hpcml.EveryStep(), **{f"fast {name}": hpcml.EveryStep(way) for name, way in hpcml.SUMS.items() if not way.exact}}
    ways["local steps, every 8"] = hpcml.LocalSteps(every=8)
    runs = {f"hpcml {name}": mlp_step(comm, shard, sizes, batch, sync) for name, sync in ways.items()}
    runs[ALONE] = alone(comm, shard, sizes, batch // comm.size)
    try:
        import torch  # noqa: F401
    except ImportError:
        if comm.rank == 0:
            print("PyTorch is not installed: no row for it (pip install torch)", flush=True)
        return runs
    return runs | {"torch DDP gloo": torch_step(comm, sizes, batch // comm.size)}


def alone(comm, shard: Path, sizes: list[int], rows: int) -> Callable[[], None]:
    """Return the exact step of rank 0 by itself on its rows while the others wait: what parallel efficiency is measured against."""
    import hpcml
    from hpcml.bench.step import mlp_step
    from hpcml.comm.alone import Alone

    if comm.rank:
        return lambda: None
    return mlp_step(Alone(), shard, sizes, rows, hpcml.EveryStep())


def torch_step(comm, sizes: list[int], rows: int) -> Callable[[], None]:
    """Return PyTorch's step: the same MLP and optimizer, DistributedDataParallel over Gloo."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517", RANK=str(comm.rank), WORLD_SIZE=str(comm.size))
    dist.init_process_group("gloo")
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers[:-1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.rand(rows, sizes[0]), torch.randint(0, sizes[-1], (rows,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def report(args: argparse.Namespace, medians: dict[str, float], batch: int, seconds: dict[str, list[float]]) -> None:
    """Print the rows and keep them with host and versions."""
    from hpcml.train.conditions import conditions, versions

    rows = []
    base = medians.get("torch DDP gloo")
    print(f"MLP {args.sizes}, {args.rows} rows a rank, {args.ranks} ranks, median of {args.rounds} rounds")
    for name, median in medians.items():
        mine = batch // args.ranks if name == ALONE else batch
        ratio = base / median * mine / batch if base else None
        rows.append({"contestant": name, "seconds": median, "rounds": seconds[name], "rows_per_second": mine / median, "over_torch": ratio})
        print(f"{name:28} {median * 1e3:8.2f} ms  {mine / median:10,.0f} rows/s" + (f"  {ratio:5.2f} x torch" if ratio else ""), flush=True)
    print(f"parallel efficiency of {args.ranks} ranks: {medians[ALONE] / medians['hpcml exact']:.2f}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {"date": time.strftime("%Y-%m-%d"), "arguments": vars(args) | {"folder": None}, "rows": rows}
    kept |= {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "conditions": conditions(), "versions": versions()}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
