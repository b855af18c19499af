"""A training step on two ranks: hpcml's roads, and PyTorch DDP with Gloo where PyTorch is installed, interleaved; and on one rank alone.

    python benchmarks/step.py [--workload mlp | cnn | transformer] [--ranks 2] [--rounds 9] [--rows 128]

Prints a row a contestant, with the memory that a step of one process needs beside hpcml's and PyTorch's, and keeps them in
benchmarks/results/. Each rank has one BLAS thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ranks import start_in_folder
from workloads import WORKLOADS

ALONE, FUSED_ALONE = "hpcml exact, one rank", "hpcml exact, fused, one rank"
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Start the ranks, or be one, or be the process whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="mlp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=10, help="steps in a round")
    parser.add_argument("--rows", type=int, help="rows of the batch for each rank; left out, the workload's own")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rows = args.rows or WORKLOADS[args.workload].rows
    work = dataclasses.replace(WORKLOADS[args.workload], rows=args.rows)
    if args.memory_of is not None:
        return tell_memory(args.memory_of, work, Path(args.folder))
    if args.folder:
        return measure(args, work)
    return start_in_folder(args.ranks)


def measure(args: argparse.Namespace, work) -> int:
    """Measure all contestants in turn, round after round, and report on rank 0."""
    import hpcml
    from hpcml.bench.step import make_shard, slowest_seconds

    comm = hpcml.init()
    batch = args.rows * comm.size
    shard = Path(args.folder) / "rows.h5"
    if comm.rank == 0:
        make_shard(shard, batch, work.shape, work.classes, work.tokens)
    comm.barrier()
    runs = contestants(comm, shard, work, batch)
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


def contestants(comm, shard: Path, work, batch: int) -> dict[str, Callable[[], None]]:
    """Return a step function for each contestant that can be had here."""
    import hpcml
    from hpcml.bench.step import training_step

    ways = {"exact": hpcml.EveryStep(), **{f"fast {name}": hpcml.EveryStep(way) for name, way in hpcml.SUMS.items() if not way.exact}}
    ways["local steps, every 8"] = hpcml.LocalSteps(every=8)
    if work.shape != WORKLOADS["mlp"].shape:  # the roads differ by the bytes of a gradient: the other workloads take one of each kind
        ways = {name: ways[name] for name in ("exact", "fast all-reduce")}
    runs = {f"hpcml {name}": training_step(comm, shard, work.hpcml(), batch, sync) for name, sync in ways.items()}
    runs[ALONE] = on_first(comm, lambda: hpcml_alone(shard, work, batch // comm.size))
    if importlib.util.find_spec("numba") is not None:
        runs["hpcml exact, fused"] = training_step(comm, shard, fused(work), batch, hpcml.EveryStep())
        runs[FUSED_ALONE] = on_first(comm, lambda: hpcml_alone(shard, work, batch // comm.size, fuse=True))
    try:
        import torch  # noqa: F401
    except ImportError:
        if comm.rank == 0:
            print("PyTorch is not installed: no row for it (pip install torch)", flush=True)
        return runs
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517", RANK=str(comm.rank), WORLD_SIZE=str(comm.size))
    dist.init_process_group("gloo")
    for kind in work.formats:
        runs[f"torch DDP gloo{kind}"] = torch_step(work, kind, ddp=True)
        runs[f"torch{kind}, one rank"] = on_first(comm, lambda kind=kind: torch_step(work, kind))
    return runs


def on_first(comm, make: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """Return rank 0's step by itself while the others wait: what parallel efficiency is measured against."""
    return (lambda: None) if comm.rank else make()


def fused(work):
    """Return hpcml's model with the steps that numba fuses."""
    model = work.hpcml()
    model.fuse()
    return model


def hpcml_alone(shard: Path, work, rows: int, fuse: bool = False) -> Callable[[], None]:
    """Return the exact step of one process by itself."""
    import hpcml
    from hpcml.bench.step import training_step
    from hpcml.comm.alone import Alone

    return training_step(Alone(), shard, fused(work) if fuse else work.hpcml(), rows, hpcml.EveryStep())


def torch_step(work, kind: str, ddp: bool = False) -> Callable[[], None]:
    """Return PyTorch's step: the same model and optimizer, and with `ddp` DistributedDataParallel."""
    import torch

    torch.set_num_threads(1)
    model, x = work.torch(kind)
    if ddp:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    y = torch.randint(0, work.classes, (x.numel() if work.tokens else len(x),))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x).flatten(0, -2), y).backward()
        optimizer.step()

    return step


def tell_memory(who: str, work, folder: Path) -> int:
    """Print by how many bytes the largest size of this process grows over the first steps of one contestant."""
    from hpcml.bench.step import make_shard

    if who.startswith("hpcml"):
        fuse = who == "hpcml, fused"
        shard = folder / f"memory-{os.getpid()}.h5"
        make_shard(shard, work.rows, work.shape, work.classes, work.tokens)
        hpcml_alone(shard, dataclasses.replace(work, rows=1), 1, fuse)()  # what is imported late is there now
        before = forget_peak()
        step = hpcml_alone(shard, work, work.rows, fuse)
    else:
        kind = who.removeprefix("torch")
        torch_step(dataclasses.replace(work, rows=1), kind)()
        before = forget_peak()
        step = torch_step(work, kind)
    for _ in range(3):
        step()
    print(peak() - before)
    return 0


def forget_peak() -> int:
    """Let the peak of this process's memory start anew, and return it; bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the largest size that this process has had in memory; bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def memory_of(args: argparse.Namespace, name: str) -> int | None:
    """Return the bytes that a contestant's step needs, measured in a process of its own; None where only the ranks together have it."""
    if not name.endswith("one rank"):
        return None
    who = {ALONE: "hpcml", FUSED_ALONE: "hpcml, fused"}.get(name, name.removesuffix(", one rank"))
    words = ["--workload", args.workload, "--rows", str(args.rows), "--folder", args.folder, "--memory-of", who]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "MPI", "HYDRA"))}
    done = subprocess.run([sys.executable, __file__, *words], env=env, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def report(args: argparse.Namespace, medians: dict[str, float], batch: int, seconds: dict[str, list[float]]) -> None:
    """Print the rows and keep them with host and versions."""
    from hpcml.train.conditions import conditions, versions

    rows = []
    bases = [name for name in medians if name.startswith("torch")]
    print(f"{args.workload}, {args.rows} rows a rank, {args.ranks} ranks, median of {args.rounds} rounds")
    for name, median in medians.items():
        alone = name.endswith("one rank")
        mine = args.rows if alone else batch
        ratios = {base: medians[base] / median for base in bases if base.endswith("one rank") == alone}
        memory = memory_of(args, name)
        row = {"contestant": name, "seconds": median, "rounds": seconds[name], "rows_per_second": mine / median, "over": ratios}
        rows.append(row | {"bytes": memory})
        told = "".join(f"  {ratio:5.2f} x {base}" for base, ratio in ratios.items() if not name.startswith("torch"))
        told += "" if memory is None else f"  {memory / 1e6:5.0f} MB"
        print(f"{name:28} {median * 1e3:8.2f} ms  {mine / median:10,.0f} rows/s{told}", flush=True)
    print(f"parallel efficiency of {args.ranks} ranks: {medians[ALONE] / medians['hpcml exact']:.2f}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    kept = {"date": time.strftime("%Y-%m-%d"), "arguments": vars(args) | {"folder": None}, "rows": rows}
    kept |= {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "conditions": conditions(), "versions": versions()}
    name = "step.json" if args.workload == "mlp" else f"step-{args.workload}.json"
    (RESULTS / name).write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
