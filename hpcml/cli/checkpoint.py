"""``hpcml checkpoint``: look at a run's checkpoints, on one process, without MPI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hpcml.errors import CheckpointError, RunError

EXAMPLE = """examples:
  hpcml checkpoint list runs/digits
  hpcml checkpoint verify runs/digits
  hpcml checkpoint digest runs/digits
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "checkpoint",
        help="list, verify or digest checkpoints",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action", choices=("list", "verify", "digest"), help="list: a line each; verify: check every file; digest: sha256 of the weights"
    )
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    actions = {"list": list_all, "verify": verify, "digest": digest}
    return actions[args.action](folder)


def list_all(folder: Path) -> int:
    """Print a line for each checkpoint, oldest first; return 0."""
    from hpcml.train.checkpoint import find, load

    for path in find(folder):
        try:
            manifest = load(path).manifest
        except CheckpointError as error:
            print(f"{path.name}  CORRUPT  {error}")
            continue
        size = sum(file["bytes"] for file in manifest["files"].values())
        place = f"epoch {manifest['epoch']} step {manifest['position']}"
        print(f"{path.name}  {place}  {manifest['workers']} workers  {size:,} bytes  {manifest['weights_sha256'][:16]}")
    if not find(folder):
        print(f"{folder}: no checkpoints")
    return 0


def verify(folder: Path) -> int:
    """Print whether each checkpoint is whole; return 1 if any is not, or there is none."""
    from hpcml.train.checkpoint import find, problem

    found = find(folder)
    problems = {path: problem(path) for path in found}
    for path, trouble in problems.items():
        print(f"{path.name}  {'whole' if trouble is None else f'CORRUPT  {trouble}'}")
    if not found:
        print(f"{folder}: no checkpoints")
    return 1 if not found or any(problems.values()) else 0


def digest(folder: Path) -> int:
    """Print the sha256 of the weights in the newest whole checkpoint; return 0. Newer ones that are not whole are named on stderr."""
    from hpcml.train.checkpoint import require_newest, sha256_of_weights

    found, problems = require_newest(folder)
    for problem in problems:
        sys.stderr.write(f"hpcml: note: checkpoint passed over: {problem}\n")
    print(sha256_of_weights(found.shared()["weights"]))
    return 0
