"""``hpcml bench loading``: how fast rows reach the steps on this machine, beside its own limit."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

EXAMPLE = """examples:
  hpcml bench loading
  hpcml bench loading --folder data/bench --shards 8 --rows 12288 --out loading.json --png loading.png
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "loading",
        help="rows a second from shards, sequential and shuffled",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", metavar="DIR", help="where the shards are made and kept (default: a temporary folder)")
    parser.add_argument("--shards", type=int, default=2, help="files (default 2)")
    parser.add_argument("--rows", type=int, default=4096, help="rows of 12 KiB in each (default 4096)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="of the loader (default 2)")
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers with host and versions")
    parser.add_argument("--png", metavar="FILE.png", help="draw them; needs matplotlib")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print a line for each number, and write what was asked for."""
    from hpcml.bench.loading import measure_loading
    from hpcml.train.conditions import versions

    if args.png:
        _require_matplotlib()  # before minutes of measuring
    with tempfile.TemporaryDirectory(prefix="hpcml-bench-") as temporary:
        folder = Path(args.folder or temporary)
        found = measure_loading(folder, args.shards, args.rows, args.rounds, args.threads)
    for name, value in found.items():
        print(f"{name:36} {value:14,.2f}" if value < 100 else f"{name:36} {value:14,.0f} rows/s", flush=True)
    if args.out:
        row = {"host": platform.node(), "versions": versions(), "shards": args.shards, "rows": args.rows, "found": found}
        Path(args.out).write_text(json.dumps(row, indent=1) + "\n")
    if args.png:
        _draw(found, Path(args.png))
    return 0


def _require_matplotlib() -> Any:
    """Return matplotlib, drawing into files.

    Raises:
        RunError: if it is not installed.
    """
    from hpcml.errors import RunError

    try:
        import matplotlib
    except ImportError as error:
        raise RunError("--png needs matplotlib; pip install matplotlib, or leave it out") from error
    matplotlib.use("agg")
    return matplotlib


def _draw(found: dict[str, float], path: Path) -> None:
    """Draw the rows a second as bars."""
    _require_matplotlib()
    from matplotlib import pyplot

    bars = {name: value for name, value in found.items() if value >= 100}
    figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
    axes.barh(list(bars), [value / 1e3 for value in bars.values()])
    axes.invert_yaxis()
    axes.set_xlabel("thousand rows of 12 KiB a second")
    figure.savefig(path, dpi=150)
