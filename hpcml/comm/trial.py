"""``python -m hpcml.comm.trial``: one rank of a small world that tries one road and may die of it; `comm.probe` starts it.

Values are compared with what numpy gives, twice, behind a stream that is still busy, so that a library that does not wait is found out.
Rank 0 writes each trial as a line of JSON as soon as it is done: what was right before a crash stays known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from hpcml.arrays import Array, choose_device, namespace, on_device, to_host
from hpcml.arrays.pinned import busy_stream, settle
from hpcml.comm.communicator import Communicator, Op
from hpcml.comm.device_table import DIRECT, NCCL, ROADS, Trial
from hpcml.comm.mpi import MpiCommunicator
from hpcml.comm.start import world
from hpcml.errors import CommError, HpcmlError

MARK = "TRIAL "
"""Begins the lines that are meant for the probe, among whatever the libraries print."""

REPEATS = 9
DTYPES = ("float32", "float64", "int32")


def main() -> int:
    """Try one road and return 0; what is wrong is in the lines, what is worse in the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("road", choices=ROADS)
    parser.add_argument("operations", help="comma-separated")
    parser.add_argument("sizes", help="bytes, comma-separated")
    parser.add_argument("--on", default="gpu", choices=("gpu", "cpu"), help="cpu tries the probe itself, where there is no GPU")
    args = parser.parse_args()
    comm = world()
    device = choose_device(args.on, comm.by_node()[0].rank)
    device.activate()
    for trial in tries(comm, args.road, args.operations.split(","), [int(size) for size in args.sizes.split(",")], device.place):
        if comm.rank == 0:
            sys.stdout.write(f"{MARK}{json.dumps(asdict(trial))}\n")
            sys.stdout.flush()
    comm.barrier()
    return 0


def tries(comm: Communicator, road: str, operations: list[str], sizes: list[int], place: Callable[[np.ndarray], Array]) -> Iterator[Trial]:
    """Yield a trial for every operation and size; equal on all ranks but for the seconds, which are the slowest rank's."""
    try:
        on_road = open_road(road, comm)
    except HpcmlError as error:
        for operation in operations:
            yield Trial(operation, road, 0, 0.0, str(error))
        return
    for operation in operations:
        for nbytes in sizes:
            yield attempt(comm, on_road, road, operation, nbytes, place)


def open_road(road: str, comm: Communicator) -> Communicator:
    """Return the communicator of one road over the ranks of comm.

    Raises:
        CommError: if there is no MPI library to hand device arrays to.
        DeviceError: where NCCL cannot serve.
    """
    if road == NCCL:
        from hpcml.comm.nccl import NcclCommunicator

        return NcclCommunicator(comm)
    if road == DIRECT:
        if not isinstance(comm, MpiCommunicator):
            raise CommError("there is no MPI library to hand device arrays to")
        return comm.handing_over()
    return comm


def attempt(
    comm: Communicator, on_road: Communicator, road: str, operation: str, nbytes: int, place: Callable[[np.ndarray], Array]
) -> Trial:
    """Return one operation's trial at one size: values first, in several dtypes, then seconds in float32."""
    for dtype in DTYPES:
        for turn in range(2):
            wrong = np.array([not is_right(on_road, operation, nbytes, dtype, turn, place)], np.int32)
            comm.all_reduce(wrong, Op.MAX)
            if wrong[0]:
                return Trial(operation, road, nbytes, 0.0, f"wrong values in {dtype}")
    return Trial(operation, road, nbytes, slowest_seconds(comm, on_road, operation, nbytes, place))


def values(rank: int, nbytes: int, dtype: str, turn: int) -> np.ndarray:
    """Return a rank's numbers, small whole ones, so that sums are the same in any order."""
    n = nbytes // np.dtype(dtype).itemsize
    return ((np.arange(n) + 31 * turn) % 251 + rank).astype(dtype)


def is_right(comm: Communicator, operation: str, nbytes: int, dtype: str, turn: int, place: Callable[[np.ndarray], Array]) -> bool:
    """Return whether one operation, handed to the communicator while its stream is still busy, gives numpy's result on this rank."""
    all_values = [values(rank, nbytes, dtype, turn) for rank in range(comm.size)]
    x, late = place(np.full_like(all_values[0], 77)), place(all_values[comm.rank])
    if on_device(x):
        settle(late)  # placed on another stream than the one that is busy next
    with busy_stream(x):
        x[...] = late
        result = operate(comm, operation, x)
        if result is not x:
            x.fill(0)  # at once: what was sent must have left before
        got = to_host(result)
    expected = {
        "all_reduce": np.sum(all_values, axis=0, dtype=dtype),
        "broadcast": all_values[-1],
        "all_gather": np.stack(all_values),
        "exchange": all_values[(comm.rank - 1) % comm.size],
    }
    return bool(np.array_equal(got, expected[operation]))


def operate(comm: Communicator, operation: str, x: Array) -> Array:
    """Do one operation with x and return where its result lies: in x, or in a new array."""
    if operation == "all_reduce":
        comm.all_reduce(x)
        return x
    if operation == "broadcast":
        comm.broadcast(x, comm.size - 1)
        return x
    if operation == "all_gather":
        out = namespace(x).zeros((comm.size, *x.shape), x.dtype)
        comm.all_gather(x, out)
        return out
    into = namespace(x).zeros_like(x)
    comm.exchange(x, (comm.rank + 1) % comm.size, into, (comm.rank - 1) % comm.size)
    return into


def slowest_seconds(comm: Communicator, on_road: Communicator, operation: str, nbytes: int, place: Callable[[np.ndarray], Array]) -> float:
    """Return the median seconds of one operation in float32, the slowest rank counting."""
    x = place(values(comm.rank, nbytes, "float32", 0))
    seconds = np.zeros(REPEATS)
    for k in range(REPEATS):
        comm.barrier()
        began = time.perf_counter()
        operate(on_road, operation, x)
        if on_device(x):
            settle(x)
        seconds[k] = time.perf_counter() - began
    comm.all_reduce(seconds, Op.MAX)
    return statistics.median(seconds.tolist())


if __name__ == "__main__":
    sys.exit(main())
