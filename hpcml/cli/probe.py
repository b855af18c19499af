"""``hpcml probe``: which roads GPUs' arrays can take between ranks here, whether their values are right, and how fast they are."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from hpcml.errors import ConfigError, DeviceError, RunError

EXAMPLE = """examples:
  hpcml probe                                          # two ranks on this node; keeps the table that run.device_road = "auto" reads
  hpcml probe --launch "srun -N 2 -n 2" --hosts 2      # between two nodes of the allocation
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "probe",
        help="try the roads of GPUs' arrays",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--launch", metavar="WORDS", default="", help="what starts a world of two (default: mpirun -n 2 on this node)")
    parser.add_argument("--hosts", metavar="N", type=int, default=1, help="how many nodes that world spans (default: 1)")
    parser.add_argument(
        "--out", metavar="FILE.json", help="where to keep the table (default: $HPCML_DEVICE_ROADS or runs/device-roads.json)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Probe, print each trial and the table, and keep it; 1 where there is no GPU to probe."""
    from hpcml.arrays import choose_device
    from hpcml.comm.device_start import place_of, table_path
    from hpcml.comm.device_table import choose, to_json
    from hpcml.comm.launch import promise
    from hpcml.comm.probe import probe
    from hpcml.train.recorder import write_whole

    promised = promise(os.environ)
    if promised is not None and promised[0] > 1:
        raise ConfigError("`hpcml probe` starts its ranks itself; start it once, without mpirun or srun")
    try:
        device = choose_device("gpu")
    except DeviceError as error:
        print(f"nothing to probe: {str(error).partition(', but ')[2].partition('; set ')[0]}")
        return 1
    trials = probe(launch=shlex.split(args.launch))
    for trial in trials:
        result = (
            trial.fault or f"{trial.nbytes:>12,} bytes {trial.seconds * 1e6:>12,.1f} us {trial.nbytes / trial.seconds / 1e9:>8.2f} GB/s"
        )
        print(f"{trial.operation:12}{trial.road:8}{result}")
    print("\n".join(choose(trials).lines()))
    path = Path(args.out) if args.out else table_path(os.environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent}: cannot be made ({error.strerror}); give another --out") from error
    write_whole(path, to_json(trials, place_of(device.model), args.hosts))
    print(f"kept in {path}")
    return 0
