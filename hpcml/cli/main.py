"""``hpcml COMMAND``: finds the command, runs it, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 a check found something wrong; 2 an error explained in one message; 70 an unexpected one, with its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from hpcml.cli import bench, checkpoint, data, evaluate, predict, train
from hpcml.comm.communicator import Communicator
from hpcml.comm.launch import promise
from hpcml.errors import HpcmlError

COMMANDS = (train, evaluate, predict, data, checkpoint, bench)


class _Parser(argparse.ArgumentParser):
    """A parser that explains a wrong command line once, not once a rank."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message where this is rank 0, and exit with 2."""
        if _is_first():
            self.print_usage(sys.stderr)
            sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise SystemExit(2)

    def print_help(self, file: Any = None) -> None:
        """Print the help where this is rank 0."""
        if _is_first():
            super().print_help(file)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(
        prog="hpcml",
        description="Train models on HPC clusters: the same answer on any number of ranks.",
        epilog="example:\n  mpirun -n 4 hpcml train jobs/digits.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"hpcml {version('hpcml')}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add_to(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except HpcmlError as error:
        return _explain(error)
    except BrokenPipeError:
        # The reader of our output is gone (`hpcml ... | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _leave(1)
    except Exception as error:
        comm = _world()
        if comm is None:
            raise
        from hpcml.watch.abort import EXIT_CODE, report

        report(comm, error)
        return _leave(EXIT_CODE)


def _explain(error: HpcmlError) -> int:
    comm = _world()
    if comm is None:
        _say(error, shown=_is_first())
    elif comm.size == 1 or error.everywhere:
        _say(error, shown=comm.rank == 0)
    else:
        _say(error, shown=True, name=f"[rank {comm.rank} of {comm.size} on {comm.host}] ")
        return _leave(2)
    return 2


def _world() -> Communicator | None:
    """Return the communicator of all ranks, if it was started; imported late, for `--help` needs none of it."""
    from hpcml.train.start import started

    return started()


def _leave(code: int) -> int:
    """Return the exit code of a process that stops where the others may be waiting for it; with others, end them too."""
    comm = _world()
    if comm is not None and comm.size > 1:
        comm.abort(code)
    return code


def _say(error: HpcmlError, shown: bool, name: str = "") -> None:
    sys.stdout.flush()
    if shown:
        sys.stderr.write(f"{name}hpcml: error: {error}\n")
        sys.stderr.flush()


def _is_first() -> bool:
    """Return whether the launcher calls this process rank 0, or did not start it."""
    promised = promise(os.environ)
    return promised is None or promised[1] == 0
