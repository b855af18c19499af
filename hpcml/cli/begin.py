"""The start that all commands share: MPI, and the same command on every rank."""

from __future__ import annotations

import argparse

from hpcml.comm.communicator import Communicator

OWN = ("run", "config", "changes")
"""Not compared: the command's function by name, and what a config comes from, since the configs themselves are compared key by key."""


def begin(args: argparse.Namespace) -> Communicator:
    """Return the communicator of all ranks, once they agree on the command and its options.

    Raises:
        DisagreementError: on every rank, naming the option and who holds which value; such ranks would wait for each other for ever.
    """
    from hpcml.train import init

    comm = init()
    comm.agree(args.run.__module__.rpartition(".")[2], "the command")
    comm.agree_all({name: value for name, value in vars(args).items() if name not in OWN}, "the option")
    return comm
