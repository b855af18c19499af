"""What the tools of ``hpcml data`` share on the command line: parsers, layouts, progress, the last line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from hpcml.comm.launch import promise

if TYPE_CHECKING:
    from hpcml.data.layout import Layout
    from hpcml.data.variable import Packing
    from hpcml.datasets.rewriting import Made

SECONDS_A_LINE = 5.0
"""How often progress is told where there is no terminal."""


def add_tool(tools: Any, name: str, summary: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Add the parser of one tool and return it."""
    made: argparse.ArgumentParser = tools.add_parser(
        name, help=summary, description=description, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return made


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options of every tool that writes shards."""
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder of the new shards and their manifest.json")
    parser.add_argument(
        "--rows-per-shard", metavar="ROWS", type=int, default=0, help="rows of a shard (default: 16 shards, of 8 to 256 MiB each)"
    )
    parser.add_argument("--chunk", metavar="ROWS", type=int, default=0, help="rows of a chunk (default: one piece, or 1 MiB under a codec)")
    parser.add_argument(
        "--codec", metavar="NAME", default="none", help="none, gzip, gzip:4, lzf; shuffle+gzip; with hdf5plugin: lz4, zstd, zstd:3, blosc"
    )


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which data sets of a group hold rows of variable length."""
    parser.add_argument("--sparse", metavar="DATA,INDICES,INDPTR", default="", help="as data.sparse of a job: their names in sparse fields")
    parser.add_argument("--ragged", metavar="VALUES,OFFSETS", default="", help="as data.ragged of a job: their names in ragged fields")


def packing_of(args: argparse.Namespace) -> Packing:
    """Return the names that the options give.

    Raises:
        ConfigError: for too many or too few of them.
    """
    from hpcml.data.variable import RAGGED, SPARSE, Packing
    from hpcml.errors import ConfigError

    def names(option: str, usual: tuple[str, ...]) -> tuple[str, ...]:
        text: str = getattr(args, option)
        found = tuple(name.strip() for name in text.split(",") if name.strip())
        if len(found) not in (0, len(usual)):
            raise ConfigError(f"--{option} {text!r} has {len(found)} names, expected {len(usual)}, such as {','.join(usual)}")
        return found

    return Packing(sparse=names("sparse", SPARSE), ragged=names("ragged", RAGGED))


def add_rows(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the rows are."""
    add_names(parser)
    parser.add_argument(
        "--along", metavar="FIELD", help="the field whose length is the number of rows (default: x, or the commonest length)"
    )


def layout_of(args: argparse.Namespace) -> Layout:
    """Return the layout that the options ask for, refused here if it cannot be written on this machine.

    Raises:
        ConfigError: for a codec, a level or a number of rows that cannot be.
    """
    from hpcml.data.layout import parse_layout
    from hpcml.errors import ConfigError

    if args.rows_per_shard < 0:
        raise ConfigError(f"--rows-per-shard is {args.rows_per_shard}; give 1 or more")
    layout = parse_layout(args.codec, args.chunk)
    layout.options(1, (), "float32")
    return layout


class Shown:
    """Progress on standard error: one line that is rewritten on a terminal, else a line every few seconds."""

    def __init__(self, who: str = "hpcml data") -> None:
        self._who = who
        self._begin = self._last = time.monotonic()
        self._open = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell that `done` of `total` pieces are done."""
        now = time.monotonic()
        text = f"{self._who}: {what} {done} of {total}, {now - self._begin:.0f} s"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if done == total else ""))
            sys.stderr.flush()
        elif now - self._last >= SECONDS_A_LINE:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
            self._last = now


def say_made(made: Made, goal: str) -> None:
    """Print what a tool that writes shards has made."""
    total = made.total.plain()
    what = "was finished before:" if made.before else "wrote"
    print(f"{what} {total['rows']:,} rows in {len(made.entries)} shards, {goal}/manifest.json; rows {total['row_hash']}", flush=True)


def is_first() -> bool:
    """Return whether the launcher calls this process rank 0, or did not start it."""
    promised = promise(os.environ)
    return promised is None or promised[1] == 0
