"""What a GPU does here: the fused optimizer steps beside a plain copy, and every road of device arrays between two ranks.

    python benchmarks/gpu.py [--n 67108864] [--repeats 21] [--device gpu]

Prints a row a contestant and keeps them in benchmarks/results/gpu.json. Exits with 1 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

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
    rows = steps(args.n, device, args.repeats) + roads(args.device)
    if args.device == "gpu":
        keep(rows, args, device.model)
    return 0


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
