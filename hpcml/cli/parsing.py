"""The command line as arguments: read on every rank, and no rank leaves over it before all have said what they read.

A launcher may start ranks with different words. A rank that left at once, with its usage or its help, would let the others wait for it
inside the start of MPI, without a word.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from hpcml.comm.launch import promise
from hpcml.errors import ConfigError, LaunchError


class Leaving(Exception):
    """What a process prints instead of running a command, and the exit code that it leaves with."""

    def __init__(self, code: int, text: str, reason: str) -> None:
        """Keep the exit code, the text to print (to stderr unless the code is 0), and the reason in a few words."""
        super().__init__(reason)
        self.code, self.text, self.reason = code, text, reason


class Parser(argparse.ArgumentParser):
    """A parser that prints nothing and ends nothing itself: it raises Leaving."""

    def __init__(self, *, elsewhere: Mapping[str, str] | None = None, **options: Any) -> None:
        """Take what argparse takes; a description that is a docstring loses its reST marks.

        Args:
            elsewhere: words that are no command here -> what is meant by them.
            options: of argparse.
        """
        super().__init__(**options)
        self.elsewhere = elsewhere or {}
        self.description = self.description and self.description.replace("``", "")

    def error(self, message: str) -> NoReturn:
        """Raise Leaving with the usage and the message; a word that is none of the choices gets the near one."""
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w-]+", found[2])
            near = self.elsewhere.get(found[1]) or next(iter(get_close_matches(found[1], known, 1)), "")
            message += f"; did you mean {near!r}?" if near else ""
        raise Leaving(2, f"{self.format_usage()}{self.prog}: error: {message}\n", f"{self.prog}: {message}")

    def print_help(self, file: Any = None) -> None:
        """Raise Leaving with the help."""
        raise Leaving(0, self.format_help(), f"{self.prog}: the help was asked for")


class Show(argparse.Action):
    """An option such as --version, which shows a text instead of running anything."""

    def __init__(self, *, text: Callable[[], str], **options: Any) -> None:
        """Show what `text` returns, which is called only then."""
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Raise Leaving with the text."""
        raise Leaving(0, self._text(), f"{parser.prog}: {self.option_strings[0]} was asked for")


def parse(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace | int:
    """Return the arguments, or the exit code where the command line asks for help or is wrong; that is printed once, on rank 0.

    Raises:
        ConfigError: on every rank, if ranks that the launcher started together do not leave for the same reason.
    """
    args, leaving = argparse.Namespace(), None
    try:
        args = parser.parse_args(arguments)
    except Leaving as caught:
        leaving = caught
    promised = promise(os.environ)
    if promised is not None and promised[0] > 1:
        _require_equal_reasons(leaving)
    if leaving is None:
        return args
    if is_first():
        (sys.stderr if leaving.code else sys.stdout).write(leaving.text)
    return leaving.code


def is_first() -> bool:
    """Return whether the launcher calls this process rank 0, or did not start it."""
    promised = promise(os.environ)
    return promised is None or promised[1] == 0


def _require_equal_reasons(leaving: Leaving | None) -> None:
    """Return if all ranks go on, or all leave for one reason; else raise on every rank, with the reasons of those that leave."""
    from hpcml.comm.start import world

    try:
        comm = world()
    except LaunchError:
        return  # this process is a world of its own: a command that needs the others finds that out and says it
    reasons = comm.all_gather_bytes(leaving.reason.encode() if leaving else b"")
    if len(set(reasons)) > 1:
        comm.fail_together(leaving and ConfigError(f"{leaving.reason}; start every rank with the same command line"))
