"""When workers agree, and on which vector. Two rhythms here; each goes over every road.

    EveryStep()            synchronous SGD: the gradients of every step become their mean
    LocalSteps(every=8)    model averaging: workers step alone, and every 8 steps their parameters become their mean

What the user writes is a frozen description; ``start`` makes the synchroniser of one run, complete with its memory.
Letters: n parameters, V virtual workers, k optimizer state vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hpcml.arrays import Array, namespace, to_host
from hpcml.comm.communicator import Communicator
from hpcml.nn.arena import Arena
from hpcml.optim.rules import Rule
from hpcml.sync.reducers import Reducer, Road, RoadSum, TreeSum

Arrays = dict[str, Array]


class Synchroniser(Protocol):
    """One run's agreement between V workers, of which this rank hosts some.

    A step is: ``enter``, compute, ``leave`` for each hosted worker in order; ``exchange``; and, if it gave sums free of faults, ``update``.
    """

    def enter(self, worker: int) -> None:
        """Point the arena at this worker's parameters and at the memory for its gradient."""

    def leave(self, worker: int, step: int) -> None:
        """Take the arena's gradient vector, tail included, as this worker's of this step."""

    def exchange(self, step: int) -> np.ndarray | None:
        """Sum over all workers if this step calls for it; return the sums of the tails since the last exchange, or None."""

    def update(self, step: int, sums: np.ndarray) -> None:
        """Overwrite the parameters by what was exchanged."""

    def consensus(self) -> np.ndarray:
        """Point the arena at the mean parameters, changing no worker; return the sums of the tails not yet exchanged."""

    def shared_state(self) -> Arrays:
        """Return the arrays that are equal on all ranks; the run's own memory, not copies."""

    def worker_state(self, worker: int) -> Arrays:
        """Return the arrays of one hosted worker; the run's own memory, not copies."""


def restore(into: Arrays, saved: dict[str, np.ndarray], device: Any) -> None:
    """Overwrite each array of a state with the saved one of the same name."""
    for name, x in into.items():
        x[...] = device.place(saved[name])


@dataclass(frozen=True, slots=True)
class ExactTree:
    """The exact way to sum: one fixed tree over the workers."""

    exact: bool = True

    def reducer(self, comm: Communicator, workers: int, length: int, dtype: Any, xp: Any) -> Reducer:
        """Return a reducer with its memory."""
        return TreeSum(comm, workers, length, dtype, xp)


@dataclass(frozen=True, slots=True)
class Fast:
    """A fast way to sum: over a rank's workers, then one road over the ranks; ``name`` is what the run records."""

    name: str
    road: Road = field(repr=False)
    exact: bool = False

    def reducer(self, comm: Communicator, workers: int, length: int, dtype: Any, xp: Any) -> Reducer:
        """Return a reducer with its memory."""
        return RoadSum(comm, workers, length, dtype, xp, self.road)


Sum = ExactTree | Fast
Start = Callable[[Arena, Communicator, int, Rule], Synchroniser]


def host_tail(vector: Array, n: int) -> np.ndarray:
    """Return the tail of a gradient vector in host memory as float64; on a device this waits for it."""
    return to_host(vector[n:]).astype(np.float64)


def state_vectors(rule: Rule, arena: Arena) -> Array:
    """Return the zeroed (k, n) state that a rule keeps beside the arena's parameters."""
    return namespace(arena.data).zeros((rule.slots, arena.n), arena.dtype)
