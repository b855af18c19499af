"""The ranks of a run by node: who shares memory with whom, and the order in which they host workers.

Letters: P ranks, L lanes. Ranks of one node come one after the other in `order`, so a node hosts one run of workers
whatever the launcher's mapping.
A lane is a place inside a node that every node has: L is the smallest number of ranks on a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcml.arrays import Array
from hpcml.arrays.memory import ALIGNMENT
from hpcml.comm.alone import Alone
from hpcml.comm.communicator import Communicator, Op


class NoSharedMemoryError(MemoryError):
    """A node of the run cannot share as much memory as it was asked for; raised on every rank of the world at the same point."""


class Nodes:
    """The world, ordered by node, with its communicators inside a node and across nodes."""

    def __init__(self, comm: Communicator, apart: bool = False) -> None:
        """Find out which ranks share a node; every rank calls it.

        Args:
            comm: all ranks.
            apart: treat every rank as a node of its own, whose memory nobody shares.
        """
        leaders = list(range(comm.size)) if apart else _leaders(comm)
        ordered = sorted(range(comm.size), key=lambda rank: (leaders[rank], rank))
        self.order = comm if ordered == list(range(comm.size)) else comm.split(0, ordered.index(comm.rank))
        leaders = [leaders[rank] for rank in ordered]
        self.ranks = [[rank for rank in range(comm.size) if leaders[rank] == leader] for leader in sorted(set(leaders))]
        self.number = next(k for k, ranks in enumerate(self.ranks) if self.order.rank in ranks)
        self.members, self.count = self.ranks[self.number], len(self.ranks)
        self.lanes = min(len(ranks) for ranks in self.ranks)
        self._comm = comm
        self.inside, self.across = (Alone(), self.order.split(0, self.order.rank)) if apart else self.order.by_node()
        self.note, self._shared = "", False

    def close(self) -> None:
        """Give back the node's memory and the communicators; every rank calls it."""
        self.inside.free()
        self.across.free()
        if self.order is not self._comm:
            self.order.free()

    def share(self, shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[Array]:
        """Return zeroed arrays of these shapes, one a rank of this node, that all its ranks read and write.

        Raises:
            NoSharedMemoryError: on every rank of the world, if any node cannot share that much; `note` then says why on each.
        """
        sizes = [int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for shape in shapes]
        mine = -(-sizes[self.inside.rank] // ALIGNMENT) * ALIGNMENT
        blocks = self.inside.shared_blocks(mine)
        had = np.array([blocks is not None], np.int32)
        self.order.all_reduce(had, Op.MIN)
        if not had[0] or blocks is None:
            mine_lacks = self.inside.shortage if blocks is None else ""
            told = sorted(text.decode() for text in self.order.all_gather_bytes(mine_lacks.encode()) if text)
            self.note = f"each rank keeps gradients of its own: {told[0]}" if told else ""
            if not self._shared:  # else others use what was shared before
                self.inside.release()
            raise NoSharedMemoryError(told[0] if told else "a node of the run cannot share memory")
        self._shared = True
        return [block[:size].view(dtype).reshape(shape) for block, size, shape in zip(blocks, sizes, shapes, strict=True)]


def _leaders(comm: Communicator) -> list[int]:
    """Return, for each rank, the first rank of its node."""
    inside, across = comm.by_node()
    first = np.array([comm.rank], np.int64)
    inside.all_reduce(first, Op.MIN)
    leaders = np.zeros((comm.size, 1), np.int64)
    comm.all_gather(first, leaders)
    inside.free()
    across.free()
    return [int(leader) for leader in leaders[:, 0]]
