"""hpcml, of which a rank dies or fails on the way: ``python dying.py RANK:COUNT:HOW:MODULE:NAME ... -- train ...``.

As rank RANK calls the function NAME of MODULE for the COUNTth time (from 1), it kills itself (HOW = kill), or meets an error (raise).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or 0)


def arm(count, how, module, name):
    """Put a function in the place of another that dies at a call of it."""
    *path, last = name.split(".")
    owner = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    whole, calls = getattr(owner, last), []

    def dying(*args, **options):
        calls.append(1)
        if len(calls) == count and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == count:
            raise MemoryError("no memory on this rank")
        return whole(*args, **options)

    setattr(owner, last, dying)


if __name__ == "__main__":
    end = sys.argv.index("--")
    for rank, count, how, module, name in (word.split(":") for word in sys.argv[1:end]):
        if int(rank) == RANK:
            arm(int(count), how, module, name)
    from hpcml.cli.main import main

    sys.exit(main(sys.argv[end + 1 :]))
