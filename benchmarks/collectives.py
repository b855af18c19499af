"""All-reduces of hpcml, of the MPI library, of Gloo (torch.distributed) and of Horovod, interleaved in one run.

    make bench-collectives                              # 2 ranks
    mpirun -n 4 python benchmarks/collectives.py --sizes 64K,1M --repeats 9

Writes the rows with hosts and versions to benchmarks/results/collectives.json, and a picture beside it where matplotlib is there.
Peers that are not installed are left out, with a line that says so. Every rank rewrites its vector before each call; the slowest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Every rank computes with one thread, so that ranks share the cores alike; read when libraries load.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import hpcml
from hpcml.bench.collectives import SIZES, measure, report, table_lines
from hpcml.bench.contestants import CONTESTANTS, Contestant
from hpcml.bench.picture import draw
from hpcml.bench.sizes import parse_sizes

OUT = Path(__file__).parent / "results" / "collectives.json"


def out_of_place(comm, x):
    """MPI_Allreduce from one vector into another."""
    out = np.zeros_like(x)

    def run():
        comm.handle.Allreduce(x, out)
        return out

    return run


def start_gloo(comm):
    """Start torch.distributed over Gloo; rank 0 offers a free port."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    hosts = set(comm.all_gather_bytes(comm.host.encode()))
    address = "127.0.0.1" if len(hosts) == 1 else comm.broadcast_bytes(comm.host.encode()).decode()
    if len(hosts) == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    port = int(comm.broadcast_bytes(str(port).encode()))
    dist.init_process_group("gloo", init_method=f"tcp://{address}:{port}", rank=comm.rank, world_size=comm.size)

    def make(comm, x):
        tensor = torch.from_numpy(x)

        def run():
            dist.all_reduce(tensor)

        return run

    return Contestant("gloo (torch)", make)


def start_horovod(comm):
    """Start Horovod over the same MPI."""
    import horovod.torch as hvd
    import torch

    hvd.init()

    def make(comm, x):
        tensor = torch.from_numpy(x)

        def run():
            hvd.allreduce_(tensor, op=hvd.Sum, name=f"x{x.size}")

        return run

    return Contestant("horovod", make)


def peers(comm):
    """Yield every peer that is here; a line for each that is not."""
    if hasattr(comm, "handle"):
        yield Contestant("MPI_Allreduce", out_of_place)
    for name, start in (("gloo", start_gloo), ("horovod", start_horovod)):
        try:
            yield start(comm)
        except ImportError as missing:
            if comm.rank == 0:
                print(f"{name}: left out ({missing})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", metavar="LIST", help="bytes, such as 4K,1M (default: 4 KB to 64 MB, times 4)")
    parser.add_argument("--repeats", metavar="N", type=int, default=15)
    parser.add_argument("--out", metavar="FILE.json", type=Path, default=OUT)
    args = parser.parse_args()
    comm = hpcml.init()
    # "all-reduce" among hpcml's roads is the library's, in place (MPI_IN_PLACE).
    rows = measure(comm, [*CONTESTANTS, *peers(comm)], parse_sizes(args.sizes) if args.sizes else SIZES, args.repeats)
    found = report(comm, rows, args.repeats, np.float32)
    for name in ("torch", "horovod"):
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    if comm.rank:
        return
    print("\n".join(table_lines(found)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nkept in {args.out}")
    draw(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
