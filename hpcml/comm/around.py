"""A communicator around another of the same ranks: everything that carries no array of a device is the inner one's."""

from __future__ import annotations

import numpy as np

from hpcml.comm.communicator import Communicator
from hpcml.comm.mail import Mail


class Around(Communicator):
    """Base of communicators that change how arrays travel and leave the rest to the one inside."""

    def __init__(self, inner: Communicator) -> None:
        """Stand around `inner`."""
        self.inner = inner
        self.rank, self.size, self.host, self.threaded = inner.rank, inner.size, inner.host, inner.threaded
        self.concurrent = inner.concurrent

    def mail(self) -> Mail:
        """Return a letter box of the inner one: letters lie in host memory."""
        return self.inner.mail()

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self.inner.barrier()

    def meets_within(self, seconds: float) -> bool:
        """Return whether every rank calls this within so many seconds of this one."""
        return self.inner.meets_within(seconds)

    def shared_blocks(self, nbytes: int) -> list[np.ndarray] | None:
        """Return the inner one's shared blocks."""
        blocks = self.inner.shared_blocks(nbytes)
        self.shortage = self.inner.shortage
        return blocks

    def fence(self) -> None:
        """Return when every rank has called it and all see what was written to shared blocks before."""
        self.inner.fence()

    def release(self) -> None:
        """Give back the inner one's shared blocks and the communicators made from it."""
        self.inner.release()

    def free(self) -> None:
        """Give back the inner one too."""
        self.inner.free()

    def abort(self, code: int = 1) -> None:
        """End every process of the world at once with this exit code."""
        self.inner.abort(code)
