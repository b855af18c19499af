"""``hpcml COMMAND``: finds the command, runs it, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 a check found something wrong; 2 an error explained in one message; 70 an unexpected one, with its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from hpcml.cli import bench, checkpoint, data, evaluate, predict, probe, train
from hpcml.cli.parsing import Parser, Show, is_first, parse
from hpcml.comm.communicator import Communicator
from hpcml.errors import HpcmlError

COMMANDS = (train, evaluate, predict, data, checkpoint, bench, probe)


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="hpcml",
        description="Train models on HPC clusters: the same answer on any number of ranks.",
        epilog="example:\n  mpirun -n 4 hpcml train jobs/digits.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        elsewhere={action: f"checkpoint {action}" for action in checkpoint.ACTIONS},
    )
    top.add_argument("--version", action=Show, text=lambda: f"hpcml {version('hpcml')}\n", help="show the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS:
        command.add_to(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output is gone (`hpcml ... | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _leave(1)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        args = parse(parser(), arguments)
        return args if isinstance(args, int) else int(args.run(args))
    except HpcmlError as error:
        return _explain(error)
    except BrokenPipeError:
        raise
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
        _say(error, shown=is_first())
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
