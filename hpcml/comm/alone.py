"""A world of one rank that needs no MPI library."""

from __future__ import annotations

import socket

import numpy as np

from hpcml.arrays import Array, aligned
from hpcml.comm.communicator import Communicator
from hpcml.comm.mail import Mail, OwnMail
from hpcml.errors import CommError


class Alone(Communicator):
    """The communicator of a single process: every collective is already done."""

    def __init__(self) -> None:
        """Make the world of rank 0 of 1."""
        self.rank, self.size, self.host = 0, 1, socket.gethostname()

    def exchange(self, x: Array | None, to: int | None, into: Array | None, source: int | None) -> None:
        """Refuse: there is nobody to talk to."""
        if to is not None or source is not None:
            raise CommError(f"exchange with rank {to if to is not None else source} in a world of one rank")

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return one block: there is nobody to share it with."""
        return [aligned(nbytes, np.uint8)]

    def split(self, color: int, key: int = 0) -> Communicator:
        """Return a world of one rank."""
        return Alone()

    def by_node(self) -> tuple[Communicator, Communicator]:
        """Return two worlds of one rank."""
        return Alone(), Alone()

    def mail(self) -> Mail:
        """Return a box for letters to itself."""
        return OwnMail(0, 1, self.all_gather_bytes)
