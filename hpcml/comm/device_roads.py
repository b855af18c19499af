"""A communicator over several roads of the same ranks: each device array takes the road that a table names for its operation and size."""

from __future__ import annotations

from hpcml.arrays import Array, on_device
from hpcml.comm.around import Around
from hpcml.comm.communicator import Communicator, Op
from hpcml.comm.device_table import STAGED, DeviceTable


class DeviceRoads(Around):
    """Chooses a road for every device array; host arrays, shared blocks and all else take the staged one, which serves everything."""

    def __init__(self, roads: dict[str, Communicator], table: DeviceTable) -> None:
        """Choose among roads of the same ranks.

        Args:
            roads: by name; "staged" must be there, and serves in place of what is not.
            table: the same on every rank.
        """
        super().__init__(roads[STAGED])
        self._roads, self._table = roads, table

    def _road(self, operation: str, x: Array) -> Communicator:
        if not on_device(x):
            return self.inner
        return self._roads.get(self._table.pick(operation, x.nbytes), self.inner)

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send x to one rank while receiving `into` from another, on one road whatever their sizes."""
        first = x if x is not None and to is not None else into
        road = self.inner if first is None else self._road("exchange", first)
        road.exchange(x, to, into, source)

    def all_reduce(self, x: Array, op: Op = Op.SUM) -> None:
        """Overwrite x with the element-wise op of all ranks' x."""
        self._road("all_reduce", x).all_reduce(x, op)

    def all_gather(self, x: Array, out: Array) -> None:
        """Overwrite out, of shape (size, *x.shape), with every rank's x in rank order."""
        self._road("all_gather", x).all_gather(x, out)

    def broadcast(self, x: Array, root: int = 0) -> None:
        """Overwrite x, on every rank, with the root's x."""
        self._road("broadcast", x).broadcast(x, root)

    def release(self) -> None:
        """Give back shared blocks and the communicators made from this one, on every road."""
        for road in self._roads.values():
            road.release()

    def free(self) -> None:
        """Give back every road; only for what `split` or `by_node` made, whose roads are its own."""
        for road in self._roads.values():
            road.free()

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color, ordered by (key, rank), on the same roads."""
        return DeviceRoads({name: road.split(color, key) for name, road in self._roads.items()}, self._table)

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks of this node, the ranks with this place in each node), on the same roads."""
        pairs = {name: road.by_node() for name, road in self._roads.items()}
        inside, across = ({name: pair[k] for name, pair in pairs.items()} for k in (0, 1))
        return DeviceRoads(inside, self._table), DeviceRoads(across, self._table)
