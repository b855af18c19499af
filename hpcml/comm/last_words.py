"""What a rank has said reaches its launcher before the world is ended: launchers drop what is still in the pipe."""

from __future__ import annotations

import os
import stat
import sys
import time

LIMIT = 2.0
"""Seconds after which a launcher that reads nothing is no longer waited for."""

PASSING_ON = 0.1
"""Seconds a launcher is given to pass on what it has read: its proxies and mpiexec are processes of their own."""


def wait_until_read() -> None:
    """Return once the launcher has read all that this process wrote to its standard output and error, if they are pipes.

    MPICH's mpiexec, told of an abort, ends its proxies at once and drops what their pipes still hold:
    6 errors in 80 were lost so, when much was said before.
    """
    pipes = [descriptor for descriptor in (1, 2) if _is_pipe(descriptor)]
    if not pipes:
        return
    end = time.monotonic() + LIMIT
    while any(map(unread, pipes)) and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(PASSING_ON)


def unread(pipe: int) -> int:
    """Return how many bytes the reader of a pipe has not yet taken; 0 where the system does not tell."""
    if sys.platform != "linux":  # elsewhere the writing end does not know
        return 0
    import fcntl
    import termios

    try:
        answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:  # closed
        return False
