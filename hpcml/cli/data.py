"""``hpcml data``: import, look at, check, rewrite and split data sets; every tool runs alone or under mpirun, with the same result."""

from __future__ import annotations

import argparse
from typing import Any

from hpcml.cli import data_import, data_inspect, data_plan, data_reshard, data_split, data_stats, data_verify

TOOLS = (data_import, data_inspect, data_plan, data_reshard, data_verify, data_stats, data_split)

EXAMPLE = """examples:
  hpcml data inspect 'data/digits/*.h5'
  mpirun -n 4 hpcml data import table.csv --label species --out shards
  hpcml data TOOL --help
"""


def add_to(commands: Any) -> None:
    """Add the command's parser and those of its tools."""
    parser = commands.add_parser(
        "data",
        help="import, inspect, plan, reshard, verify, stats, split",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tools = parser.add_subparsers(metavar="TOOL", required=True, parser_class=type(parser))
    for tool in TOOLS:
        tool.add_to(tools)
