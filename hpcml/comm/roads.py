"""How one vector becomes its sum over the ranks, by name: the library's all-reduce and every schedule, for every type that can be summed.

    run = ROADS["ring"](comm, x)      # collective: looks at x and the nodes, allocates what it needs
    run()                             # collective: overwrites x with the sum; the same bits on every rank

float16 and bfloat16 are summed in float32 from the first addition to the last, and rounded once, where the sum is written back.
They also travel as float32: on the way partial sums travel, and rounding those at every hop would cost about half a unit in the last
place for each of the P additions; a 16-bit wire is a codec's business, which says what it loses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hpcml.arrays import Array, aligned, namespace
from hpcml.comm.communicator import Communicator, flatten
from hpcml.comm.levels import lanes, two_level
from hpcml.comm.schedules import SCHEDULES
from hpcml.comm.transfers import Schedule, rounds
from hpcml.errors import CommError

Road = Callable[[Communicator, Array], Callable[[], None]]
"""(comm, x) -> a function that overwrites x with the sum over the ranks; made once, called every step."""

ByNodes = Callable[[Sequence[int]], Schedule]
"""The node of every rank -> a schedule."""

BY_NODES: dict[str, ByNodes] = {"two-level": two_level, "lanes": lanes}
"""Every all-reduce that needs to know which ranks share a node, by name."""


def summable(x: Array) -> Array:
    """Return x as one axis over the same memory, if its elements can be summed.

    Raises:
        CommError: if x is not C-contiguous, or of a type that is neither an integer nor a floating or complex number.
    """
    flat = flatten(x)
    if flat.dtype.kind not in "iufc" and flat.dtype.name != "bfloat16":
        raise CommError(f"{flat.dtype} cannot be summed over ranks; pass integers, float16, bfloat16, float32 or float64")
    return flat


def number_type(name: str) -> np.dtype:
    """Return the dtype of a name such as "float32" or "bfloat16".

    Raises:
        CommError: if there is no such type, or numpy needs ml_dtypes for it, which is not installed.
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise CommError(
                "numpy knows bfloat16 only through ml_dtypes, which is not installed; pip install ml_dtypes, or use float16"
            ) from error
        return np.dtype(ml_dtypes.bfloat16)
    try:
        return np.dtype(name)
    except TypeError as error:
        raise CommError(f"{name!r} is no type of number; choose float16, bfloat16, float32, float64 or an integer type") from error


def truly_summed(road: Road) -> Road:
    """Return the road that also sums 16-bit floats truly: over a float32 copy, rounded once at the end; others go as they are."""

    def wider(comm: Communicator, x: Array) -> Callable[[], None]:
        flat = summable(x)
        if flat.dtype.name not in ("float16", "bfloat16"):
            return road(comm, flat)
        work = _empty(flat, flat.size, np.float32)
        inner = road(comm, work)

        def run() -> None:
            work[...] = flat
            inner()
            flat[...] = work

        return run

    return wider


@truly_summed
def library(comm: Communicator, x: Array) -> Callable[[], None]:
    """Return the road of the MPI library's own all-reduce, in place."""
    return lambda: comm.all_reduce(x)


def scheduled(schedule: Schedule) -> Road:
    """Return the road that follows a pure schedule, one exchange a round."""

    @truly_summed
    def road(comm: Communicator, x: Array) -> Callable[[], None]:
        turns = rounds(schedule(comm.rank, comm.size, x.size))
        scratch = _empty(x, max((t.receive.stop - t.receive.start for t in turns if t.add), default=0), x.dtype)
        plan = []
        for t in turns:
            target = x[t.receive]
            plan.append((x[t.send], t.to, scratch[: target.size] if t.add else target, t.source, target if t.add else None))
        add = namespace(x).add

        def run() -> None:
            for send, to, landing, source, target in plan:
                comm.exchange(send, to, landing, source)
                if target is not None:
                    add(target, landing, out=target)

        return run

    return road


def over_nodes(make: ByNodes) -> Road:
    """Return the road of a schedule that knows which ranks share a node; making it asks all ranks for their hosts."""

    def road(comm: Communicator, x: Array) -> Callable[[], None]:
        return scheduled(make(node_numbers(comm)))(comm, x)

    return road


def node_numbers(comm: Communicator) -> list[int]:
    """Return the node of every rank, numbered from 0 in order of their first ranks; collective."""
    hosts = comm.all_gather_bytes(comm.host.encode())
    order = {host: number for number, host in enumerate(dict.fromkeys(hosts))}
    return [order[host] for host in hosts]


def _empty(like: Array, length: int, dtype: np.dtype | type) -> Array:
    """Return memory where `like` lives."""
    return aligned(length, dtype) if isinstance(like, np.ndarray) else namespace(like).empty(length, dtype)


ROADS: dict[str, Road] = {
    "all-reduce": library,
    **{name: scheduled(schedule) for name, schedule in SCHEDULES.items()},
    **{name: over_nodes(make) for name, make in BY_NODES.items()},
}
"""Every road over ranks, by name."""


def schedule_of(name: str, nodes: Sequence[int]) -> Schedule | None:
    """Return the schedule that a road follows on these nodes; None for the library's, which does not tell."""
    return BY_NODES[name](nodes) if name in BY_NODES else SCHEDULES.get(name)
