"""The first call of a program."""

from __future__ import annotations

from hpcml.comm.communicator import Communicator
from hpcml.comm.start import world
from hpcml.watch import end_world_on_error
from hpcml.watch.survivors import surviving

_started: list[Communicator] = []


def started() -> Communicator | None:
    """Return the communicator of all ranks, or of those that are left, if `init` was called, else None."""
    left = surviving()
    if left is not None:
        return left.comm
    return _started[0] if _started else None


def init() -> Communicator:
    """Start MPI and return the communicator of all ranks; from now on an error on one rank ends all, named and with its traceback.

    Raises:
        LaunchError: if the launcher started several ranks, but this process would believe to be alone.
    """
    if not _started:
        _started.append(world())
        end_world_on_error(_started[0])
    return started() or _started[0]
