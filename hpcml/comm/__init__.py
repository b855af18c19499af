"""How ranks talk: communicators over MPI and simulated, and all-reduce schedules as pure arithmetic."""

from hpcml.comm.communicator import Communicator, Op
from hpcml.comm.start import world

__all__ = ["Communicator", "Op", "world"]
