"""What a GPU does here: training steps beside PyTorch's, optimizer steps beside a plain copy, roads of device arrays between two ranks.

    python benchmarks/gpu.py [--n 67108864] [--repeats 21] [--device gpu]

Prints a row a contestant and keeps them in benchmarks/results/gpu.json. Exits with 1 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "gpu.json"


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1 << 26, help="parameters")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"), help="cpu runs the same rows without a GPU, and keeps nothing")
    args = parser.parse_args()
    from hpcml.arrays import choose_device
    from hpcml.errors import DeviceError

    try:
        device = choose_device(args.device)
    except DeviceError as error:
        print(f"no GPU was measured: {error}", file=sys.stderr)
        return 1
    device.activate()
    rows = workloads(device, args.repeats) + steps(args.n, device, args.repeats) + roads(args.device)
    if args.device == "gpu":
        keep(rows, args, device.model)
    return 0


def sizes(tiny: bool):
    """Return the three workloads at a GPU's sizes, or at sizes that a CPU takes in a second."""
    from workloads import CNN, MLP, Transformer

    if tiny:
        return {"mlp": MLP((8, 16, 10), 4), "cnn": CNN((3, 4), 8, 4), "transformer": Transformer(1, 16, 2, 8, 2)}
    return {"mlp": MLP((784, 4096, 4096, 10), 1024), "cnn": CNN(rows=1024), "transformer": Transformer(12, 768, 12, 1024, 8)}


def workloads(device, repeats: int) -> list[dict]:
    """Return and print a row for a training step of each workload in bfloat16: hpcml's, PyTorch's eager and compiled if there."""
    from tempfile import TemporaryDirectory

    from hpcml.bench.device import median_seconds

    rows = []
    for workload, work in sizes(device.name == "cpu").items():
        with TemporaryDirectory() as folder:
            ours = {"hpcml": False} | ({"hpcml graph": True} if device.name != "cpu" else {})
            runs = {name: hpcml_step(Path(folder) / f"{name}.h5", work, device, graph) for name, graph in ours.items()}
            runs |= torch_steps(work, device)
            for name, run in runs.items():
                seconds = median_seconds(run, device.place(np.zeros(1)), repeats)
                rows.append({"contestant": name, "workload": workload, "seconds": seconds})
                print(f"{workload:12} {name:16}{seconds * 1e3:9.3f} ms", flush=True)
    return rows


def hpcml_step(shard: Path, work, device, graph: bool) -> Callable[[], None]:
    """Return hpcml's step, products in bfloat16, launched kernel by kernel or as one graph."""
    import hpcml
    from hpcml.bench.step import make_shard, training_step
    from hpcml.comm.alone import Alone

    make_shard(shard, work.rows, work.shape, work.classes, work.tokens)
    model = work.hpcml()
    model.round(hpcml.nn.BFLOAT16)
    return training_step(Alone(), shard, model, work.rows, hpcml.EveryStep(), device.name.partition(":")[0], graph=graph)


def torch_steps(work, device) -> dict[str, Callable[[], None]]:
    """Return PyTorch's steps under autocast, each settled: eager, and on a GPU compiled; none where no PyTorch for this device is."""
    try:
        import torch
    except ImportError:
        torch = None
    on = "cpu" if device.name == "cpu" else "cuda"
    if torch is None or (on == "cuda" and not torch.cuda.is_available()):
        print("no PyTorch for this device: no rows for it", flush=True)
        return {}

    def step(compiled: bool) -> Callable[[], None]:
        model, x = work.torch(work.formats[-1])
        model, x = model.to(on), x.to(on)
        forward = torch.compile(model) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        y = torch.randint(0, work.classes, (x.numel() if work.tokens else len(x),), device=on)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(on, torch.bfloat16):
                scores = forward(x).flatten(0, -2)
            torch.nn.functional.cross_entropy(scores.float(), y).backward()
            optimizer.step()
            if on == "cuda":
                torch.cuda.synchronize()

        return run

    return {"torch eager": step(False)} | ({"torch compiled": step(True)} if on == "cuda" else {})


def steps(n: int, device, repeats: int) -> list[dict]:
    """Return and print a row for a copy and for each rule."""
    from hpcml.bench.device import copy_row, rule_row
    from hpcml.optim import LARS, SGD, AdamW

    rules = {"sgd": SGD(0.1), "momentum": SGD(0.1, momentum=0.9), "adamw": AdamW(0.001), "lars": LARS(0.1)}
    rows = [{"contestant": "copy", "n": n, **copy_row(n, device, repeats)}]
    rows += [{"contestant": name, "n": n, **rule_row(rule, n, device, repeats)} for name, rule in rules.items()]
    for row in rows:
        print(f"{row['contestant']:12} {row['seconds'] * 1e3:9.3f} ms  {row['gb_per_second']:9.1f} GB/s", flush=True)
    return rows


def roads(on: str) -> list[dict]:
    """Return and print a row for each operation on each road at each size, tried in child worlds of two ranks."""
    from hpcml.comm.probe import probe

    trials = probe(on=on)
    for trial in trials:
        result = trial.fault or f"{trial.seconds * 1e6:12.1f} us {trial.nbytes / trial.seconds / 1e9:8.2f} GB/s"
        print(f"{trial.operation:12}{trial.road:8}{trial.nbytes:>12,} bytes {result}", flush=True)
    return [asdict(trial) for trial in trials]


def keep(rows: list[dict], args: argparse.Namespace, model: str) -> None:
    """Write the rows with device, host conditions and versions."""
    from hpcml.train.conditions import conditions, versions

    kept = {"date": time.strftime("%Y-%m-%d"), "arguments": vars(args), "device": model, "rows": rows}
    kept |= {"conditions": conditions(), "versions": versions()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
