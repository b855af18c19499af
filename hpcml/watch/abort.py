"""An error that one rank alone saw ends every rank, with its traceback and the rank's name first."""

from __future__ import annotations

import atexit
import faulthandler
import sys
import threading
import traceback
from types import TracebackType
from typing import NoReturn

from hpcml.comm.communicator import Communicator
from hpcml.errors import HpcmlError
from hpcml.watch.survivors import surviving

AN_HOUR = 3600.0
GRACE = 5.0
"""Seconds that ranks which leave with an error wait for the others to leave too."""

EXIT_CODE = 70
"""Of a world ended by an unexpected error: EX_SOFTWARE of sysexits.h."""


def end_world_on_error(comm: Communicator) -> None:
    """From now on, an uncaught error on this rank, in any thread, is printed with the rank's name and ends all ranks.

    Errors that every rank raises (``everywhere``) are printed by rank 0 alone and end each rank in order.
    A crash in C code prints the Python stacks; the launcher then ends the other ranks.
    """
    faulthandler.enable()

    def on_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, HpcmlError) and error.everywhere:
            if comm.rank == 0:
                sys.__excepthook__(kind, error, trace)
            return
        else:
            report(comm, error)
        if comm.size > 1:
            comm.abort(EXIT_CODE)

    def on_thread_error(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            on_error(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = on_error
    threading.excepthook = on_thread_error
    if comm.size > 1:
        _watch_exit(comm)


def _watch_exit(comm: Communicator) -> None:
    """Let ``sys.exit`` with a code other than 0 on some ranks alone end all: the library would wait for the others without a word."""
    leave, said = sys.exit, list[str | int | None]()

    def exit_and_say(code: str | int | None = None) -> NoReturn:
        said.append(code)
        leave(code)

    def at_exit() -> None:
        left = surviving()
        if left is not None:
            code = said[-1] if said and isinstance(said[-1], int) else int(bool(said and said[-1]) or hasattr(sys, "last_value"))
            left.end(code)
        name = f"[rank {comm.rank} of {comm.size} on {comm.host}]"
        if said and said[-1] not in (None, 0):
            if not comm.meets_within(GRACE):
                sys.stderr.write(f"{name} left by sys.exit({said[-1]!r}) alone; all ranks end\n")
                comm.abort(said[-1] if isinstance(said[-1], int) else 1)
            return
        # Others may still work for hours, so a rank that ends well waits for them; but it says so.
        if not comm.meets_within(GRACE):
            sys.stderr.write(
                f"{name} has ended and waits for the other ranks; if they wait for it, they have not called the same operations\n"
            )
            sys.stderr.flush()
            while not comm.meets_within(AN_HOUR):
                continue

    sys.exit = exit_and_say
    atexit.register(at_exit)


def report(comm: Communicator, error: BaseException) -> None:
    """Write the error's traceback to standard error, each line named by rank, in one piece."""
    name = f"[rank {comm.rank} of {comm.size} on {comm.host}] "
    lines = "".join(traceback.format_exception(error)).splitlines()
    sys.stderr.write("".join(f"{name}{line}\n" for line in lines))
    sys.stderr.flush()
