"""Workers' vectors, carried to the ranks whose workers mix them.

Letters: V workers, P ranks. Whoever hosts them, a worker adds its neighbours' vectors in the order of their numbers: the same bits.
A vector goes to a rank once, however many of its workers want it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays import Array, namespace, spans
from hpcml.comm.communicator import Communicator
from hpcml.comm.topologies import Topology

Row = list[tuple[int, float]]
"""What one worker hears in a round: (worker, weight), in order."""


class Mixer:
    """Mixes the vectors of the workers that this rank hosts with those of their neighbours, round by round."""

    def __init__(self, comm: Communicator, workers: int, topology: Topology, make: Callable[[], Array]) -> None:
        """Prepare for rank r of `comm` to host ``spans(workers, size)[r]``.

        Args:
            comm: all ranks.
            workers: V.
            topology: who hears whom, in which round.
            make: gives memory for one vector.
        """
        self._comm, self._workers, self._topology, self._make = comm, workers, topology, make
        self._runs = [range(run.start, run.stop) for run in spans(workers, comm.size)]
        self._came: list[Array] = []
        self._product = make()
        self._known: dict[int, list[Row]] = {}

    def rows(self, round: int) -> list[Row]:
        """Return what each worker hears in a round."""
        period = self._topology.period(self._workers)
        key = round % period if period else round
        if key not in self._known:
            weights = self._topology.weights(self._workers, key)
            rows = [[(int(j), float(row[j])) for j in np.flatnonzero(row)] for row in weights]
            if not period:
                self._known.clear()
            self._known[key] = rows
        return self._known[key]

    def mix(self, round: int, mine: dict[int, Array], out: dict[int, Array]) -> None:
        """Overwrite `out`, a vector for each hosted worker, with what its row makes of all workers' vectors; `mine` stay as they are."""
        rows = self.rows(round)
        known = mine | self._exchange(rows, mine)
        for worker, target in out.items():
            if not rows[worker]:
                target.fill(0)
            for place, (other, weight) in enumerate(rows[worker]):
                share: Any = target.dtype.type(weight)
                if place == 0:
                    namespace(target).multiply(known[other], share, out=target)
                else:
                    namespace(target).multiply(known[other], share, out=self._product)
                    target += self._product

    def _exchange(self, rows: list[Row], mine: dict[int, Array]) -> dict[int, Array]:
        """Return the vectors of other ranks' workers that hosted workers hear in this round."""
        comm, came = self._comm, dict[int, Array]()
        for k in range(1, comm.size):
            to, source = (comm.rank + k) % comm.size, (comm.rank - k) % comm.size
            send, take = self._wanted(rows, to, comm.rank), self._wanted(rows, comm.rank, source)
            for i in range(max(len(send), len(take))):
                given = mine[send[i]] if i < len(send) else None
                into = self._memory(len(came)) if i < len(take) else None
                if into is not None:
                    came[take[i]] = into
                comm.exchange(given, None if given is None else to, into, None if into is None else source)
        return came

    def _wanted(self, rows: list[Row], by: int, source: int) -> list[int]:
        """Return the workers of rank `source` that workers of rank `by` hear, in order."""
        heard = {other for worker in self._runs[by] for other, _ in rows[worker]}
        return sorted(heard.intersection(self._runs[source]))

    def _memory(self, number: int) -> Array:
        """Return the number-th vector for what comes, made when it is first needed."""
        if number == len(self._came):
            self._came.append(self._make())
        return self._came[number]
