"""All-reduces compared inside one run: interleaved, every rank rewriting its vector before each call, the slowest rank counting.

Letters: P ranks, n elements.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcml.arrays import Array, aligned
from hpcml.bench.contestants import LIMITS, LINK, SAME_TRAFFIC, Contestant, Run
from hpcml.bench.sizes import counted, shown_bytes
from hpcml.comm.communicator import Communicator, Op
from hpcml.comm.costs import lower_bound, sent
from hpcml.comm.roads import node_numbers
from hpcml.comm.start import library_version
from hpcml.errors import CommError
from hpcml.sync.nodes import NoSharedMemoryError
from hpcml.train.conditions import versions

SIZES = [1 << k for k in (12, 14, 16, 18, 20, 22, 24, 26)]
"""Bytes: 4 KB to 64 MB."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant at one size; seconds are the median over the repeats of the slowest rank's.

    `limit` marks what the machine can do at best; `share` is the limit's seconds divided by this row's;
    `sent` and `bound` are bytes that the busiest rank sends, and must send in any all-reduce by messages; None where nobody knows.
    """

    name: str
    bytes: int
    seconds: float
    fastest: float
    gigabytes_per_second: float
    share: float | None
    sent: int | None
    bound: int
    limit: bool


class _Lane:
    """A contestant at one size, ready to run."""

    def __init__(self, contestant: Contestant, comm: Communicator, x: Array) -> None:
        self.contestant, self.x = contestant, x
        self.run: Run = contestant.make(comm, x)
        self.seconds: list[float] = []


def measure(
    comm: Communicator,
    contestants: Sequence[Contestant],
    sizes: Sequence[int],
    repeats: int,
    dtype: Any = np.float32,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Return a row for each size and contestant, limits included; collective, equal on all ranks.

    Args:
        comm: all ranks.
        contestants: whom to compare; each one's first sum is checked.
        sizes: bytes of the vectors, rounded down to whole elements.
        repeats: timed calls of each, 1 or more.
        dtype: of the elements, a floating type.
        say: is told who is left out, at which size, for want of memory that ranks share.

    Raises:
        CommError: on every rank, if a contestant's sum is wrong.
    """
    rows: list[Row] = []
    kind = np.dtype(dtype)
    for nbytes in dict.fromkeys(nbytes // kind.itemsize * kind.itemsize for nbytes in sizes):
        rows += _measure_size(comm, contestants, nbytes, repeats, kind, say)
    return rows


def _measure_size(
    comm: Communicator, contestants: Sequence[Contestant], nbytes: int, repeats: int, dtype: np.dtype, say: Callable[[str], None]
) -> list[Row]:
    n = nbytes // dtype.itemsize
    source = aligned(n, dtype)
    source[...] = np.arange(n) % 5 + comm.rank
    vectors: dict[Any, Array] = {}
    lanes = []
    for contestant in [*contestants, *LIMITS]:
        if contestant.memory not in vectors:  # private vectors are one vector: caches see what a training step shows them
            try:
                vectors[contestant.memory] = contestant.memory(comm, n, dtype)
            except NoSharedMemoryError as error:  # on every rank alike
                say(f"{contestant.name} is left out at {shown_bytes(nbytes)}: {error}")
                continue
        lanes.append(_Lane(contestant, comm, vectors[contestant.memory]))
    for lane in lanes:
        lane.x[...] = source
        comm.barrier()
        result = lane.run()
        if lane.contestant not in LIMITS:
            _require_sum(comm, lane.x if result is None else result, lane.contestant.name)
    for k in range(repeats):
        turn = k % len(lanes)
        for lane in lanes[turn:] + lanes[:turn]:  # nobody always comes after the same one
            lane.seconds.append(_time(comm, lane, source))
    return _rows(comm, lanes, n, dtype.itemsize)


def _time(comm: Communicator, lane: _Lane, source: Array) -> float:
    """Return the seconds of one call; one that is not timed goes before, so that nobody pays for the code that the one before evicted."""
    for _ in range(2):
        lane.x[...] = source
        comm.barrier()
        lane.run()
    lane.x[...] = source
    comm.barrier()
    start = time.perf_counter()
    lane.run()
    return time.perf_counter() - start


def _require_sum(comm: Communicator, x: Array, name: str) -> None:
    """Raise on every rank unless x holds the sum of all ranks' sources, to the precision of its type."""
    n = x.size
    expected = comm.size * (np.arange(n) % 5) + comm.size * (comm.size - 1) / 2
    with comm.together():
        if not np.allclose(x.astype(np.float64), expected, rtol=0.02 if x.dtype.itemsize < 4 else 1e-5):
            raise CommError(f"{name}: the sum of {n} {x.dtype} over {comm.size} ranks is wrong on rank {comm.rank}; do not use this road")


def _rows(comm: Communicator, lanes: Sequence[_Lane], n: int, itemsize: int) -> list[Row]:
    times = np.array([lane.seconds for lane in lanes])
    comm.all_reduce(times, Op.MAX)
    medians = dict(zip([lane.contestant.name for lane in lanes], np.median(times, axis=1), strict=True))
    nodes = node_numbers(comm)
    limit = medians[LINK if max(nodes) else SAME_TRAFFIC]
    bound = round(lower_bound(comm.size, n)) * itemsize
    found = []
    for lane, each in zip(lanes, times, strict=True):
        name, is_limit = lane.contestant.name, lane.contestant in LIMITS
        if name == LINK and not max(nodes):
            continue
        seconds = float(medians[name])
        share = None if is_limit else float(limit / seconds)
        sends = _sent(comm, lane.contestant, nodes, n, itemsize)
        found.append(Row(name, n * itemsize, seconds, float(each.min()), n * itemsize / seconds / 1e9, share, sends, bound, is_limit))
    return found


def _sent(comm: Communicator, contestant: Contestant, nodes: Sequence[int], n: int, itemsize: int) -> int | None:
    """Return the bytes that the busiest rank sends; 16-bit floats travel as float32."""
    schedule = contestant.schedule(nodes)
    if schedule is None:
        return None
    most = np.array([sent(schedule, comm.rank, comm.size, n).elements], np.int64)
    comm.all_reduce(most, Op.MAX)
    return int(most[0]) * max(itemsize, 4)


def report(comm: Communicator, rows: Sequence[Row], repeats: int, dtype: Any) -> dict[str, Any]:
    """Return the rows with all that says where they hold: ranks, nodes, hosts, cores, versions; collective."""
    hosts = [host.decode() for host in comm.all_gather_bytes(comm.host.encode())]
    return {
        "benchmark": "collectives",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "ranks": comm.size,
        "nodes": len(set(hosts)),
        "hosts": list(dict.fromkeys(hosts)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "dtype": np.dtype(dtype).name,
        "repeats": repeats,
        "versions": versions() | {"mpi": library_version()},
        "rows": [asdict(row) for row in rows],
    }


def table_lines(found: dict[str, Any]) -> list[str]:
    """Return a report as lines of text: for each size a block, the fastest first."""
    head = f"{'road':20} {'median':>11} {'GB/s':>8} {'of limit':>9} {'sent':>10} {'of bound':>9}"
    world = f"{counted(found['ranks'], 'rank')} on {counted(found['nodes'], 'node')}"
    lines = [f"{world} ({', '.join(found['hosts'])}), {found['dtype']}, {found['versions']['mpi']}"]
    for nbytes in sorted({row["bytes"] for row in found["rows"]}):
        lines += ["", shown_bytes(nbytes), head]
        rows = [row for row in found["rows"] if row["bytes"] == nbytes]
        lines += [_line(row) for row in sorted(rows, key=lambda row: (row["limit"], row["seconds"]))]
    return lines


def _line(row: dict[str, Any]) -> str:
    share = "-" if row["share"] is None else f"{100 * row['share']:.0f} %"
    sends = "-" if row["sent"] is None else shown_bytes(row["sent"])
    bound = "-" if row["sent"] is None or not row["bound"] else f"{row['sent'] / row['bound']:.2f}"
    name = f"({row['name']})" if row["limit"] else row["name"]
    return f"{name:20} {row['seconds'] * 1e6:>8,.1f} us {row['gigabytes_per_second']:>8.3f} {share:>9} {sends:>10} {bound:>9}"
