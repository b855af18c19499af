"""A world of n ranks in the threads of one process: tests without MPI, the same laws as with it.

    from hpcml.comm import simulated
    sums = simulated.run(4, program)        # program(comm) -> anything; one result a rank

A rank that raises ends the world with its error; ranks that all wait for each other are found at once and named.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcml.arrays import Array, aligned
from hpcml.comm.communicator import Communicator, flatten
from hpcml.comm.mail import Mail
from hpcml.errors import CommError

_Key = tuple[str, int, int]


class World:
    """The mailboxes that the ranks of one simulated world share."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Make a world with one rank for each entry of hosts."""
        self.hosts = list(hosts)
        self.changed = threading.Condition()
        self.mail: dict[_Key, deque[Any]] = {}
        self.blocked: dict[int, _Key] = {}
        self.alive = set(range(len(self.hosts)))
        self.failure: BaseException | None = None

    def put(self, key: _Key, x: Any) -> None:
        """Leave x in the mailbox of a (context, sender, receiver)."""
        with self.changed:
            self.mail.setdefault(key, deque()).append(x)
            self.changed.notify_all()

    def take(self, key: _Key, rank: int) -> Array:
        """Wait for a message and return it; raise when nobody is left who could send it."""
        with self.changed:
            self.blocked[rank] = key
            try:
                while not self.mail.get(key):
                    self._raise_if_hopeless()
                    self.changed.wait()
                return self.mail[key].popleft()
            finally:
                del self.blocked[rank]

    def leave(self, rank: int, failure: BaseException | None) -> None:
        """Take a rank out of the world; its failure becomes the world's."""
        with self.changed:
            self.alive.discard(rank)
            self.failure = self.failure or failure
            self.changed.notify_all()

    def _raise_if_hopeless(self) -> None:
        if self.failure is not None:
            raise CommError(f"another rank failed: {self.failure!r}") from self.failure
        if all(rank in self.blocked and not self.mail.get(self.blocked[rank]) for rank in self.alive):
            self.changed.notify_all()
            waits = ", ".join(f"rank {rank} waits for rank {key[1]}" for rank, key in sorted(self.blocked.items()))
            raise CommError(f"deadlock: {waits}")


class SimulatedCommunicator(Communicator):
    """One rank's view of a group of ranks in a simulated world."""

    threaded = concurrent = True

    def __init__(self, world: World, members: tuple[int, ...], rank: int, context: str = "world") -> None:
        """Join `members` (ranks of the world) as number `rank` among them."""
        self.world, self.members, self.context = world, members, context
        self.rank, self.size = rank, len(members)
        self.host = world.hosts[members[rank]]
        self._splits = 0

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Send a copy of x to one rank while receiving `into` from another."""
        if to is not None and x is not None:
            self.world.put((self.context, self.members[self.rank], self.members[to]), flatten(x).copy())
        if source is not None and into is not None:
            came = self.world.take((self.context, self.members[source], self.members[self.rank]), self.members[self.rank])
            target = flatten(into)
            if came.dtype != target.dtype or came.size != target.size:
                raise CommError(
                    f"rank {self.rank} expected {target.size} {target.dtype} from rank {source}, got {came.size} {came.dtype};"
                    " both sides must pass the same size and dtype"
                )
            target[...] = came

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return the communicator of the ranks that gave the same color, ordered by (key, rank)."""
        self._splits += 1
        pairs = np.zeros((self.size, 2), np.int64)
        self.all_gather(np.array([color, key], np.int64), pairs)
        group = sorted((r for r in range(self.size) if pairs[r, 0] == color), key=lambda r: (pairs[r, 1], r))
        members = tuple(self.members[r] for r in group)
        return SimulatedCommunicator(self.world, members, group.index(self.rank), f"{self.context}/{self._splits}:{color}")

    def mail(self) -> Mail:
        """Return a new letter box of this rank."""
        self._splits += 1
        return _SimulatedMail(self, f"{self.context}/{self._splits}:mail")

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return one block of memory a rank, which all threads see."""
        if len({self.world.hosts[member] for member in self.members}) > 1:
            return None
        mine = aligned(nbytes, np.uint8)
        context, me = f"{self.context}/blocks", self.members[self.rank]
        for member in self.members:
            self.world.put((context, me, member), mine)
        return [self.world.take((context, member, me), me) for member in self.members]

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return (the ranks with this host name, the ranks with this place in each host)."""
        hosts = [self.world.hosts[member] for member in self.members]
        inside = self.split(hosts.index(self.host))
        return inside, self.split(inside.rank)


class _SimulatedMail(Mail):
    """Letters through the world's mailboxes: all senders' in one queue a receiver, in the order of their posting."""

    def __init__(self, comm: SimulatedCommunicator, context: str) -> None:
        super().__init__(comm.rank, comm.size, comm.all_gather_bytes)
        self._world, self._members, self._context = comm.world, comm.members, context

    def _send(self, to: int, letter: np.ndarray, urgency: int) -> None:
        self._world.put((self._context, 0, self._members[to]), (self.rank, letter))

    def _receive(self) -> tuple[int, np.ndarray] | None:
        with self._world.changed:
            if self._world.failure is not None:
                raise CommError(f"another rank failed: {self._world.failure!r}") from self._world.failure
            waiting = self._world.mail.get((self._context, 0, self._members[self.rank]))
            return waiting.popleft() if waiting else None

    def is_idle(self) -> bool:
        """Return True: a letter is with its receiver at once."""
        return True


def run(size: int, program: Callable[[Communicator], Any], hosts: Sequence[str] | None = None) -> list[Any]:
    """Run program(comm) on `size` ranks in threads and return their results in rank order.

    Args:
        size: number of ranks, 1 or more.
        program: called once a rank with its Communicator.
        hosts: a host name for each rank, to imitate several nodes; one host when left out.

    Raises:
        BaseException: the first error that any rank raised.
    """
    names = list(hosts) if hosts is not None else ["host0"] * size
    if len(names) != size:
        raise CommError(f"{len(names)} host names for {size} ranks; give one for each")
    world = World(names)
    results: list[Any] = [None] * size

    def live(rank: int) -> None:
        failure: BaseException | None = None
        try:
            results[rank] = program(SimulatedCommunicator(world, tuple(range(size)), rank))
        except BaseException as error:  # every way a thread can end must wake the others
            failure = error
        world.leave(rank, failure)

    threads = [threading.Thread(target=live, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if world.failure is not None:
        raise world.failure
    return results
