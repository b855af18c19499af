"""The first call of a program."""

from __future__ import annotations

from functools import cache

from hpcml.comm.communicator import Communicator
from hpcml.comm.mpi import world
from hpcml.watch import end_world_on_error


@cache
def init() -> Communicator:
    """Start MPI and return the communicator of all ranks; from now on an error on one rank ends all, named and with its traceback.

    Raises:
        LaunchError: if the launcher started several ranks, but this process would believe to be alone.
    """
    comm = world()
    end_world_on_error(comm)
    return comm
