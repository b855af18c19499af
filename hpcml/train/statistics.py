"""Statistics of rows, computed by all ranks together, the same bits on any number of them: for transforms and for `hpcml data stats`.

The tree of data/statistics.py is walked: each rank takes a run of its leaves, partial results go up by messages, the root to everybody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from hpcml.arrays import spans
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.data import ShardedDataset
from hpcml.data.gathering import RowSource
from hpcml.data.statistics import BLOCK_BYTES, LEAVES, Moments, Nodes, fold, leaf, pack, unpack
from hpcml.errors import DataError, ShardError
from hpcml.sync.tree import Node, crossings

Told = Callable[[int, int], None]
"""Called on rank 0 with (leaves done, leaves in all)."""


def field_moments(source: RowSource, step: int, comm: Communicator, told: Told) -> dict[str, Moments]:
    """Return the moments of every field of numbers over all rows, on every rank.

    Memory: a few nodes of the tree, 48 bytes a column each, whatever the number of ranks.

    Args:
        source: the rows, the same on every rank.
        step: rows that are read and added at a time; part of the definition of the bits.
        comm: all ranks.
        told: hears of the leaves that are done.

    Raises:
        DataError: on every rank, if any rank meets rows that cannot be read.
    """
    runs = spans(LEAVES, comm.size)
    mine = runs[comm.rank]
    nodes: Nodes = {}
    for turn in range(-(-LEAVES // comm.size)):
        with comm.together():
            if mine.start + turn < mine.stop:
                nodes[0, mine.start + turn] = leaf(source, step, mine.start + turn)
                nodes = fold(nodes)
        if comm.rank == 0:
            told(min((turn + 1) * comm.size, LEAVES), LEAVES)
    for _, right, sender, adder in crossings(runs):
        if comm.rank == sender != adder:
            _send(pack({_place(right): nodes.pop(_place(right))}), adder, comm)
        if comm.rank == adder != sender:
            nodes = fold({**nodes, **unpack(_receive(sender, comm))})
    (root,) = unpack(comm.broadcast_bytes(pack(nodes))).values()
    return root


def _place(node: Node) -> tuple[int, int]:
    """Return (level, index) of a node over a run of leaves."""
    level = (node[1] - node[0]).bit_length() - 1
    return level, node[0] >> level


def _send(text: bytes, to: int, comm: Communicator) -> None:
    comm.exchange(np.array([len(text)], np.int64), to, None, None)
    comm.exchange(np.frombuffer(text, np.uint8).copy(), to, None, None)


def _receive(source: int, comm: Communicator) -> bytes:
    length = np.zeros(1, np.int64)
    comm.exchange(None, None, length, source)
    text = np.zeros(int(length[0]), np.uint8)
    comm.exchange(None, None, text, source)
    return text.tobytes()


class _Features:
    """The features of a data set, as they come out of its transforms, in float64."""

    def __init__(self, data: ShardedDataset, quarantine: bool) -> None:
        self._data, self.rows, self._quarantine = data, data.rows, quarantine

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return rows start to stop-1, under a quarantine without those that cannot be read: the same ones whoever reads."""
        x = np.empty((stop - start, *self._data.x.shape))
        try:
            self._data.read(start, stop, x)
        except ShardError:
            if not self._quarantine:
                raise
            return {"x": self._readable(start, stop)}
        return {"x": x}

    def _readable(self, start: int, stop: int) -> np.ndarray:
        """Return the rows of all pieces that can be read."""
        found = [np.empty((0, *self._data.x.shape))]
        for first, last in self._data.pieces(start, stop, 1):
            piece = np.empty((last - first, *self._data.x.shape))
            with contextlib.suppress(ShardError):
                self._data.read(first, last, piece)
                found.append(piece)
        return np.concatenate(found)


def moments(data: ShardedDataset, comm: Communicator, quarantine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each number of a row over all rows, two arrays (*row,) float64.

    NaN and infinity are left out, so that the row that holds one, and no other, is refused when it is trained on.

    Raises:
        DataError: on every rank, if any rank meets rows that cannot be read and there is no quarantine, or none can be read.
    """
    shape = data.x.shape
    step = max(1, BLOCK_BYTES // max(1, 8 * int(np.prod(shape, dtype=np.int64))))
    found = field_moments(_Features(data, quarantine), step, comm, lambda done, total: None).get("x")
    if found is None:
        raise everywhere(DataError("standardise: no row of the training data can be read; `hpcml data verify` says what is wrong"))
    return found.table[1].reshape(shape), found.deviation.reshape(shape)
