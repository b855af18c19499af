"""``hpcml bench``: what this machine, or this allocation, can do, beside its own limits."""

from __future__ import annotations

import argparse
from typing import Any

from hpcml.cli import bench_collectives, bench_loading

EXAMPLE = """examples:
  mpirun -n 2 hpcml bench collectives
  hpcml bench loading
"""


def add_to(commands: Any) -> None:
    """Add the command's parser, and one for each thing to measure."""
    parser = commands.add_parser(
        "bench", help="measure this allocation", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(metavar="WHAT", required=True, parser_class=type(parser))
    for kind in (bench_collectives, bench_loading):
        kind.add_to(kinds)
