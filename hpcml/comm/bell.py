"""A doorbell for each rank: MPI wakes nobody, so a sender on the same machine wakes the receiver by an empty datagram.

A Unix socket in the abstract namespace: no file is left behind, no privilege is needed, and who cannot reach it (from another machine, or
another container's network) finds out at once. A ring says only that a look is worth while. It waits in the socket until it is heard, so
none is lost. It costs its sender 3 us.
"""

from __future__ import annotations

import select
import socket
import sys
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any

HEARD = 16
"""Rings that are taken at once: a few more than a kernel keeps for a socket unless it is told otherwise."""


Gather = Callable[[bytes], list[bytes]]
"""Returns what every rank gave, in rank order; every rank calls it."""


class Bell:
    """One rank's bell: rung by its name, heard by the rank's main thread, and by a thread beside it unless that is told to be deaf."""

    def __init__(self) -> None:
        """Hang it up under a name of its own; where the system has no such sockets the name is empty, and nobody can ring it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self.name = b""
        self._main, self._beside = select.poll(), None
        self._main.register(self._socket, select.POLLIN)
        if sys.platform == "linux":
            self.name = b"\0hpcml-" + uuid.uuid4().hex.encode()
            self._socket.bind(self.name)
            self._beside = select.epoll()
            self._beside.register(self._socket, select.EPOLLIN)
        self.close = weakref.finalize(self, _take_down, self._socket, self._beside)
        """Called without arguments, once or more often: gives the socket back."""

    def ring(self, name: bytes) -> bool:
        """Wake whoever has the bell of this name; return whether there is such a bell in reach."""
        if not name:
            return False
        try:
            self._socket.sendto(b"", name)
        except BlockingIOError:  # it was rung before, and nobody has heard it yet
            return True
        except OSError:  # its owner is gone, or was never in reach
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Return whether it was rung: at once if it was before, or within so many seconds, asleep meanwhile."""
        heard = bool(self._main.poll(1000 * seconds))
        if heard:
            self.hush()
        return heard

    def wait_beside(self, seconds: float) -> bool:
        """Do the same on the other thread, which hears nothing while it is deaf."""
        if self._beside is None:
            time.sleep(seconds)
            return False
        heard = bool(self._beside.poll(seconds))
        if heard:
            self.hush()
        return heard

    def deafen(self, deaf: bool) -> None:
        """Let the other thread hear nothing, or hear again."""
        if self._beside is not None:
            self._beside.modify(self._socket, 0 if deaf else select.EPOLLIN)

    def hush(self) -> None:
        """Forget the rings so far."""
        try:
            for _ in range(HEARD):
                self._socket.recv(1)
        except OSError:  # there are no more
            return


def introduce(bell: Bell, gather: Gather) -> tuple[list[bytes], list[bool]]:
    """Return the names of all ranks' bells, and which of these every rank can ring; every rank calls it.

    Args:
        bell: this rank's.
        gather: returns what every rank gave, in rank order; every rank calls it.
    """
    names = gather(bell.name)
    reached = gather(bytes(bell.ring(name) for name in names))
    return names, [all(row[rank] for row in reached) for rank in range(len(names))]


def _take_down(own: socket.socket, beside: Any) -> None:
    own.close()
    if beside is not None:
        beside.close()
