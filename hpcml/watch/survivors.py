"""A world that goes on when ranks die, where the MPI library can: ULFM, which Open MPI has under `mpirun --with-ft ulfm`.

Ranks form crews: when one dies, all of its crew go. What was seen differs from rank to rank (one ends an operation that another finds
broken), so nothing counts before all ranks left agree that it is done. Whoever meets an error revokes the world, which wakes all others.
Source: Bland et al., Post-failure recovery of MPI communication capability, IJHPCA 2013.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from hpcml.comm.communicator import Communicator, everywhere, name_ranks
from hpcml.comm.launch import outlives_ranks
from hpcml.comm.mpi import MpiCommunicator
from hpcml.comm.start import library_version
from hpcml.errors import ConfigError

GRACE, A_DAY = 5.0, 86400.0
"""Seconds that a rank waits for the others at its end: in any case, and if it ends well."""

_started: list[Survivors] = []


def surviving() -> Survivors | None:
    """Return what keeps this world going when ranks die, if the run asked for it."""
    return _started[-1] if _started else None


class Survivors:
    """The ranks that are left of a world.

    Args:
        order: all ranks, as they host workers.
        crews: of each rank a number: ranks with the same one share what they work on, and go together.

    Raises:
        ConfigError: on every rank, where this MPI, or this start of it, ends all ranks when one dies.
    """

    def __init__(self, order: Communicator, crews: Sequence[int]) -> None:
        from mpi4py import MPI

        if not isinstance(order, MpiCommunicator) or not outlives_ranks(MPI):
            library = f"{library_version()}, as it was started," if isinstance(order, MpiCommunicator) else type(order).__name__
            text = f"run.survive: {library} ends all ranks when one dies; start with Open MPI 5 and `mpirun --with-ft ulfm`"
            raise everywhere(ConfigError(f"{text}, or leave run.survive out: then a lost rank ends the run, and --resume goes on"))
        self._mpi, self._crews, self._me = MPI, list(crews), order.rank
        self.name = f"[rank {order.rank} of {order.size} on {order.host}]"
        self.hosts = [text.decode() for text in order.all_gather_bytes(order.host.encode())]
        self.comm = order
        self.ranks = list(range(order.size))
        """Of the ranks that are left, in the order of `comm`, their numbers in `order`."""
        _started.append(self)

    def is_loss(self, error: BaseException) -> bool:
        """Return whether an error says that a rank died, or that another rank met such an error."""
        MPI = self._mpi
        classes = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED, MPI.ERR_IN_STATUS, MPI.ERR_PENDING)
        return isinstance(error, MPI.Exception) and error.Get_error_class() in classes

    def agree(self, done: bool) -> bool:
        """Return on every rank left whether all have done what they did; False too if a rank has died unnoticed."""
        if not done:
            self.comm.handle.Revoke()
        try:
            return bool(self.comm.handle.Agree(int(done)))
        except self._mpi.Exception:
            return False

    def revoke(self, comm: Communicator) -> None:
        """Wake all ranks of a communicator that wait for each other: their operations fail from now on."""
        if isinstance(comm, MpiCommunicator):
            comm.handle.Revoke()

    def revoke_all(self) -> None:
        """Wake all ranks that wait for each other, in whatever was made from `comm`."""
        assert isinstance(self.comm, MpiCommunicator)
        for handle in self.comm.handles():
            handle.Revoke()

    def shrink(self) -> list[int]:
        """Make `comm` the communicator of the ranks that go on, and return those that do not, by their numbers in the first one.

        Every rank left calls it after an `agree` that was False. A rank whose crew has lost one does not return: it ends here.
        """
        MPI, before, handle = self._mpi, self.ranks, self.comm.handle
        handle.Revoke()
        while True:
            handle = handle.Shrink()
            handle.Set_errhandler(MPI.ERRORS_RETURN)
            alive, part = list[int](), None
            try:
                alive = handle.allgather(self._me)
                broken = {self._crews[rank] for rank in before if rank not in alive}
                part = handle.Split(int(self._crews[self._me] in broken), self._me)
                done = True
            except MPI.Exception:
                done = False
            try:
                done = bool(handle.Agree(int(done)))
            except MPI.Exception:
                done = False
            if done:
                break
            handle.Revoke()
        dead = [rank for rank in before if rank not in alive]
        if self._crews[self._me] in broken:
            self._leave(dead)
        self.comm = MpiCommunicator(part)
        self.ranks = [rank for rank in before if self._crews[rank] not in broken]
        return [rank for rank in before if rank not in self.ranks]

    def _leave(self, dead: list[int]) -> NoReturn:
        """End this process, whose crew is broken; the others do not wait for it any more."""
        mine = [rank for rank in dead if self._crews[rank] == self._crews[self._me]]
        sys.stderr.write(f"{self.name} leaves the run: {name_ranks(mine)} of its group died\n")
        self._exit(0)

    def end(self, code: int) -> NoReturn:
        """End this process when the ranks left have come so far: finalising MPI would wait for the dead."""
        sys.stdout.flush()
        try:
            met = self.comm.meets_within(GRACE)
            if not met and not code:
                sys.stderr.write(f"{self.name} has ended and waits for the other ranks\n")
                met = self.comm.meets_within(A_DAY)
        except self._mpi.Exception:  # one has died at the very end, and nobody needs it any more
            met = True
        if met:
            self._exit(code)
        os.kill(os.getpid(), signal.SIGKILL)  # ranks that wait for this one hear of its death, not of its exit code
        raise SystemExit(code)

    @staticmethod
    def _exit(code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def crews_of(hosted: Sequence[Sequence[int]]) -> list[int]:
    """Return each rank's crew: the first group that it hosts.

    Args:
        hosted: the groups of each rank.

    Raises:
        ConfigError: on every rank, if a rank shares one group and hosts another too: then losing one would break both.
    """
    shared = {group for groups in hosted for group in groups if sum(group in others for others in hosted) > 1}
    mixed = [rank for rank, groups in enumerate(hosted) if len(groups) > 1 and shared & set(groups)]
    if mixed:
        text = f"run.survive: {name_ranks(mixed)} would host parts of several of the groups that sync.groups makes"
        raise everywhere(ConfigError(f"{text}; choose ranks as a multiple of the groups, or groups as a multiple of the ranks"))
    return [min(groups) for groups in hosted]
