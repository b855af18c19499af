"""``hpcml bench``: what this machine and allocation can do, and how near hpcml comes."""

from __future__ import annotations

import argparse
from typing import Any

from hpcml.cli import bench_collectives, bench_loading

EXAMPLE = """examples:
  mpirun -n 2 hpcml bench collectives
  hpcml bench loading
"""


def add_to(commands: Any) -> None:
    """Add the parsers of all measurements."""
    parser = commands.add_parser(
        "bench", help="measure this machine", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(metavar="WHAT", required=True, parser_class=type(parser))
    bench_collectives.add_to(what)
    bench_loading.add_to(what)
