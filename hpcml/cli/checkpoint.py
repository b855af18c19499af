"""``hpcml checkpoint``: look at a run's checkpoints, or export its model, on one process, without MPI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from hpcml.cli.parsing import is_first
from hpcml.errors import CheckpointError, ConfigError, RunError

EXAMPLE = """examples:
  hpcml checkpoint list runs/digits
  hpcml checkpoint verify runs/digits
  hpcml checkpoint digest runs/digits
  hpcml checkpoint export runs/digits --out digits.safetensors
"""


ACTIONS = ("list", "verify", "digest", "export")


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "checkpoint",
        help="list, verify, digest or export checkpoints",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="list: a line each; verify: check every file; digest: sha256 of the weights; export: the newest model for other programs",
    )
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--out", metavar="FILE", help="of export: FILE.safetensors for weights, FILE.onnx for a graph that predicts")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do the action, once where a launcher started several processes."""
    if not is_first():
        return 0
    folder = Path(args.folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder; give the one that `hpcml train` named")
    if args.action == "export":
        return export(folder, args.out)
    if args.out:
        raise ConfigError(f"hpcml checkpoint {args.action} writes no file; leave --out out")
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


def export(folder: Path, out: str | None) -> int:
    """Write the model of the newest whole checkpoint as a file that other programs read; return 0.

    Raises:
        ConfigError: for a file that ends neither in .safetensors nor in .onnx.
        RunError: if the run predicts by an ensemble, which is more than one model.
    """
    from importlib.metadata import version

    from hpcml.comm.alone import Alone
    from hpcml.exporting import export_onnx, export_weights
    from hpcml.nn.losses.loss import as_it_is
    from hpcml.trained import load_together
    from hpcml.transforming import LEAVE_FEATURES

    writers = {".safetensors": export_weights, ".onnx": export_onnx}
    suffix = Path(out or "").suffix
    if not out or suffix not in writers:
        given = f"--out is {out!r}" if out else "--out is missing"
        raise ConfigError(f"hpcml checkpoint export: {given}; give --out FILE.safetensors for weights or FILE.onnx for a graph")
    comm = Alone()
    trained = load_together(folder, comm, device="cpu")
    trained.say_problems(comm)
    if trained.judge is not trained.model:
        raise RunError(f"{folder}: predicts by an ensemble of {trained.workers} members, a file holds one model")
    config = trained.config
    told = {"hpcml": version("hpcml"), "model": config.model.name, "loss": config.train.loss, "step": str(trained.checkpoint.step)}
    writers[suffix](trained.model, out, told)
    print(f"{trained.model.arena.n:,} numbers of {trained.checkpoint.path.name} written to {out}")
    if suffix == ".onnx":
        rows, outputs = (f"(B, {', '.join(map(str, shape))})" for shape in (trained.model.shape, trained.model.outputs))
        scores = "" if trained.loss.link is as_it_is else ", from which `hpcml predict` makes probabilities"
        print(f"it takes rows {rows} and gives outputs {outputs}{scores}")
    names = ", ".join(step.name for step in config.data.transforms if step.name not in LEAVE_FEATURES)
    if names:
        print(f"note: the model takes rows as data.transforms leaves them ({names}); the file does not do that")
    return 0
