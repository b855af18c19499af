"""Who takes part in the comparison of all-reduces, by name; and the limits that they are held against.

A contestant makes, from a communicator and a vector x, a function that leaves the sum over the ranks in x, or returns the array that
holds it. One whose vector must live in memory of its own making (a shared window, a device) says so by `memory`. To add one is a line:

    CONTESTANTS.append(Contestant("mine", make))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hpcml.arrays import Array, aligned, spans
from hpcml.comm.communicator import Communicator, is_short
from hpcml.comm.roads import ROADS, node_numbers, schedule_of
from hpcml.comm.transfers import Schedule
from hpcml.errors import ConfigError
from hpcml.sync import Nodes
from hpcml.sync.node_sum import NodeSum
from hpcml.sync.nodes import NoSharedMemoryError

Run = Callable[[], Array | None]
"""One all-reduce: overwrites x and returns None, or returns the array that holds the sum."""

IN_CACHE = 1 << 14
"""Elements added at once by the limit: small enough that a partial sum stays in a core's own cache."""


def private(comm: Communicator, n: int, dtype: np.dtype) -> Array:
    """Return (n,) of this rank's own memory."""
    return aligned(n, dtype)


def untold(nodes: Sequence[int]) -> Schedule | None:
    """Return None: nobody knows what this contestant sends."""
    return None


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to all-reduce: its name, how it is made, where its vector lives, and its schedule if it follows one."""

    name: str
    make: Callable[[Communicator, Array], Run]
    memory: Callable[[Communicator, int, np.dtype], Array] = private
    schedule: Callable[[Sequence[int]], Schedule | None] = untold


class NodeArena:
    """The sum through the nodes' memory: vectors lie in it from the start, and so does the result, once a node."""

    def __init__(self) -> None:
        """Start with no vectors."""
        self._made: dict[int, NodeSum] = {}

    def memory(self, comm: Communicator, n: int, dtype: np.dtype) -> Array:
        """Return this rank's vector (n,) in memory that its node sees."""
        if is_short(dtype):
            raise NoSharedMemoryError("it adds in the type of its vectors, and 16-bit floats are added in float32 only")
        reducer = NodeSum(Nodes(comm), comm.size, n, 0, dtype)
        vector = reducer.buffer()
        self._made[vector.ctypes.data] = reducer
        return vector

    def make(self, comm: Communicator, x: Array) -> Run:
        """Return a function that sums the vectors and returns the result, which all ranks of the node read in place."""
        reducer = self._made.pop(x.ctypes.data)
        result = reducer.vector()

        def run() -> Array:
            reducer.add()
            reducer.finish()
            reducer.write(result)
            reducer.settle()
            return result

        return run


NODE = NodeArena()
CONTESTANTS: list[Contestant] = [Contestant(name, road, schedule=partial(schedule_of, name)) for name, road in ROADS.items()]
CONTESTANTS.append(Contestant("node arena", NODE.make, memory=NODE.memory))
"""Everybody whom ``hpcml bench collectives`` compares."""


def select(names: Sequence[str]) -> list[Contestant]:
    """Return the contestants of these names, in this order; all of them when none is named.

    Raises:
        ConfigError: if a name is unknown.
    """
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown road {name!r}; choose from {', '.join(known)}")
    return [known[name] for name in names] or list(CONTESTANTS)


def same_traffic(comm: Communicator, x: Array) -> Run:
    """Return the memory traffic of an all-reduce in shared memory without any synchronisation: P slices read, one written, a rank.

    The slices are of the rank's own vector, for the traffic is the same wherever they lie; what they give is no sum over ranks.
    """
    cut = spans(x.size, comm.size)
    length = min(span.stop - span.start for span in cut)
    slices = [x[span][:length] for span in cut]
    out = aligned(length, x.dtype)

    def run() -> None:
        for start in range(0, length, IN_CACHE):
            block = slice(start, start + IN_CACHE)
            if comm.size == 1:
                np.copyto(out[block], slices[0][block])
                continue
            np.add(slices[0][block], slices[1][block], out=out[block])
            for other in slices[2:]:
                np.add(out[block], other[block], out=out[block])

    return run


def plain_copy(comm: Communicator, x: Array) -> Run:
    """Return a copy of the vector inside this rank's memory, all ranks at once."""
    out = aligned(x.size, x.dtype)
    return lambda: np.copyto(out, x)


def link(comm: Communicator, x: Array) -> Run:
    """Return the traffic that a node must send, 2 n (N - 1) / N elements, shared by its ranks and sent to the next node at once.

    On uneven nodes the rank of a node meets the rank of that place in the next, counted around.
    """
    nodes = node_numbers(comm)
    count = max(nodes) + 1
    if count == 1:
        return lambda: None
    members = [[rank for rank, node in enumerate(nodes) if node == number] for number in range(count)]
    fewest = min(len(group) for group in members)
    here = members[nodes[comm.rank]]
    place = here.index(comm.rank)
    if place >= fewest:
        return lambda: None
    part = x[: x.size // fewest]
    landing = aligned(part.size, x.dtype)
    after, before = members[(nodes[comm.rank] + 1) % count][place], members[(nodes[comm.rank] - 1) % count][place]
    extra = part.size * (count - 2) // count  # 2 (N - 1) / N = 1 + (N - 2) / N

    def run() -> None:
        comm.exchange(part, after, landing, before)
        if extra:
            comm.exchange(part[:extra], after, landing[:extra], before)

    return run


SAME_TRAFFIC, COPY, LINK = "no synchronisation", "plain copy", "link"
LIMITS = [Contestant(SAME_TRAFFIC, same_traffic), Contestant(COPY, plain_copy), Contestant(LINK, link)]
"""What the machine can do at best; they sum nothing over ranks."""
