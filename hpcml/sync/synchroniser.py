"""When workers agree, and on which vector: what every strategy is. docs/strategies.md lists them; each goes over every road.

What the user writes is a frozen description; ``start`` makes the synchroniser of one run, complete with its memory.
Letters: n parameters, V virtual workers, k optimizer state vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpcml.arrays import Array, namespace, spans
from hpcml.comm.communicator import Communicator
from hpcml.comm.roads import Road
from hpcml.nn.arena import Arena, Tail
from hpcml.optim import Rule
from hpcml.sync.conits import Conits
from hpcml.sync.node_sum import NodeSum
from hpcml.sync.nodes import Nodes, NoSharedMemoryError
from hpcml.sync.reducers import Part, Reducer, RoadSum, TreeSum

if TYPE_CHECKING:
    from hpcml.sync.ensemble import Members

Arrays = dict[str, Array]

BUCKET, BUCKETS = 1 << 20, 16
"""Least bytes of a bucket that travels between nodes while backward goes on, enough for a link's full speed; and about how many
there are of a large gradient: what backward cannot hide is about one bucket."""


class Synchroniser(Protocol):
    """One run's agreement between V workers, of which this rank hosts some.

    A step is: ``enter``, compute, ``leave`` for each hosted worker in order; ``exchange``; and, if it gave sums free of faults, ``update``.
    """

    def enter(self, worker: int) -> None:
        """Point the arena at this worker's parameters and at the memory for its gradient."""

    def drops(self, worker: int, step: int) -> bool:
        """Return whether what this worker would find at this step comes too late to count; it is then not even computed."""

    @property
    def losable(self) -> bool:
        """Return whether workers may be gone before the run ends: then no sum may wait for one beyond an epoch's end."""

    def lost(self, worker: int, step: int) -> bool:
        """Return whether this worker takes no part in this step, and in none after it, because its group is gone."""

    def ready(self, span: slice) -> None:
        """Take note that backward has completed this span of the worker's gradient, and all behind it."""

    def leave(self, worker: int, step: int) -> None:
        """Take the arena's gradient vector, tail included, as this worker's of this step."""

    def exchange(self, step: int) -> np.ndarray | None:
        """Sum over all workers if this step calls for it; return the sums of the tails since the last exchange, or None."""

    def update(self, step: int, sums: np.ndarray) -> None:
        """Overwrite the parameters by what was exchanged."""

    def consensus(self) -> np.ndarray:
        """Point the arena at the mean parameters, changing no worker; return the sums of the tails not yet exchanged."""

    def settle(self) -> None:
        """Return when all ranks see what was restored into the states; every rank calls it."""

    def members(self) -> Members | None:
        """Return the hosted workers' models if all predict together; None where one model predicts."""

    def conits(self) -> Conits | None:
        """Return how far the workers' models were apart, as measured, or None where they never are; every rank calls it."""

    def shared_state(self) -> Arrays:
        """Return the arrays that are equal on all ranks; the run's own memory, not copies."""

    def worker_state(self, worker: int) -> Arrays:
        """Return the arrays of one hosted worker; the run's own memory, not copies."""


class Quiet:
    """What most synchronisers have nothing to say to: empty methods for them to inherit."""

    @property
    def losable(self) -> bool:
        """Return False: workers stay to the end."""
        return False

    def drops(self, worker: int, step: int) -> bool:
        """Return False: every worker counts."""
        return False

    def lost(self, worker: int, step: int) -> bool:
        """Return False: every worker stays."""
        return False

    def ready(self, span: slice) -> None:
        """Do nothing: no part of a gradient travels before the whole."""

    def settle(self) -> None:
        """Return at once: no other rank reads this memory."""

    def members(self) -> Members | None:
        """Return None: one model predicts."""
        return None

    def conits(self) -> Conits | None:
        """Return None: there is one model."""
        return None

    def worker_state(self, worker: int) -> Arrays:
        """Return nothing: workers do not differ."""
        return {}


class Plan(Protocol):
    """A frozen description of a synchroniser: what the user writes, and what decides the bits of a run."""

    @property
    def sum(self) -> Sum:
        """Return how it sums over the workers."""

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Synchroniser:
        """Return the synchroniser of one run, with all its memory."""


class Adopting(Synchroniser, Protocol):
    """A synchroniser whose workers can all go on from one model."""

    def adopt(self, data: Array, slots: Array) -> None:
        """Overwrite every model, common or a worker's own, with parameters (n,) and optimizer state (k, n); every rank calls it."""


class AdoptingPlan(Plan, Protocol):
    """Describes a strategy whose workers have models of their own."""

    def start(self, arena: Arena, nodes: Nodes, workers: int, rule: Rule) -> Adopting:
        """Return the synchroniser of one run, with all its memory."""


def restore(into: Arrays, saved: dict[str, np.ndarray], device: Any) -> None:
    """Overwrite each array of a state with the saved one of the same name; some live on the host whatever the device."""
    for name, x in into.items():
        x[...] = saved[name] if isinstance(x, np.ndarray) else device.place(saved[name])


def through_nodes(nodes: Nodes, workers: int, arena: Arena, vectors: int) -> NodeSum:
    """Return the reducer through the nodes' memory, which sends a large gradient in buckets between nodes.

    Raises:
        NoSharedMemoryError: on every rank, if a node has no room for it.
    """
    cut = arena.buckets(max(BUCKET, arena.n * arena.dtype.itemsize // BUCKETS))
    return NodeSum(nodes, workers, arena.n, len(Tail), arena.dtype, vectors, cut)


@dataclass(frozen=True, slots=True)
class ExactTree:
    """The exact way to sum: one fixed tree over the workers."""

    exact: bool = True

    def reducer(self, nodes: Nodes, workers: int, arena: Arena, vectors: int) -> Reducer:
        """Return a reducer with room for `vectors`: through the nodes' memory, or by messages alone; the bits are the same."""
        xp = namespace(arena.data)
        if xp is not np:
            return TreeSum(nodes.order, workers, arena.n, len(Tail), arena.dtype, xp)
        try:
            return through_nodes(nodes, workers, arena, vectors)
        except NoSharedMemoryError:  # nodes.note says why, and the run tells it once
            return through_nodes(Nodes(nodes.order, apart=True), workers, arena, vectors)

    def among(self, comm: Communicator, runs: list[slice], arena: Arena) -> Reducer:
        """Return a reducer by messages alone over some ranks, of which rank r hosts the workers ``runs[r]``, perhaps none."""
        return TreeSum(comm, runs[-1].stop, arena.n, len(Tail), arena.dtype, namespace(arena.data), runs)


@dataclass(frozen=True, slots=True)
class Fast:
    """A fast way to sum: over a rank's workers, then one road over the ranks; ``name`` is what the run records."""

    name: str
    road: Road = field(repr=False)
    exact: bool = False

    def reducer(self, nodes: Nodes, workers: int, arena: Arena, vectors: int) -> Reducer:
        """Return a reducer with its memory."""
        return self.among(nodes.order, spans(workers, nodes.order.size), arena)

    def among(self, comm: Communicator, runs: list[slice], arena: Arena) -> Reducer:
        """Return a reducer over some ranks, of which rank r hosts the workers ``runs[r]``, perhaps none."""
        return RoadSum(comm, runs[-1].stop, arena.n, len(Tail), arena.dtype, namespace(arena.data), self.road, runs)


@dataclass(frozen=True, slots=True)
class Auto:
    """The fast way that fits the machine: the nodes' memory where ranks share one, else a road chosen by size."""

    road: Road = field(repr=False)
    exact: bool = False
    say: Callable[[str], None] = field(default=lambda text: None, repr=False, compare=False)

    def reducer(self, nodes: Nodes, workers: int, arena: Arena, vectors: int) -> Reducer:
        """Return a reducer with its memory, and say which way it takes."""
        if any(len(ranks) > 1 for ranks in nodes.ranks) and namespace(arena.data) is np:
            try:
                reducer = through_nodes(nodes, workers, arena, vectors)
            except NoSharedMemoryError:  # nodes.note says why, and the run tells it once
                return Fast("auto", self.road).reducer(nodes, workers, arena, vectors)
            self.say("auto: the nodes' shared memory (ranks share a node)")
            return reducer
        return Fast("auto", self.road).reducer(nodes, workers, arena, vectors)

    def among(self, comm: Communicator, runs: list[slice], arena: Arena) -> Reducer:
        """Return a reducer by messages over some ranks, of which rank r hosts the workers ``runs[r]``, perhaps none."""
        return Fast("auto", self.road).among(comm, runs, arena)


Sum = ExactTree | Fast | Auto


def divide(total: Array, weight: float) -> None:
    """Overwrite a sum with the mean: the only division by the weight."""
    total *= total.dtype.type(1.0 / weight)


def scaled(blocks: Iterator[Part], weight: float) -> Iterator[Part]:
    """Yield blocks of a sum as blocks of the mean, in place."""
    for span, x in blocks:
        divide(x, weight)
        yield span, x
