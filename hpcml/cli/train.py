"""``hpcml train``: a job from its TOML file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcml.cli.begin import begin
from hpcml.cli.parsing import Show
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.errors import RunError

if TYPE_CHECKING:
    from hpcml.train import Trainer

EXAMPLE = """examples:
  hpcml train jobs/digits.toml
  mpirun -n 4 hpcml train jobs/digits.toml --set train.epochs=5 --set sync.name=local-steps --run runs/mine
  mpirun -n 3 hpcml train jobs/digits.toml --set train.epochs=6 --set sync.name=local-steps --run runs/mine --resume
"""


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "train", help="train a model", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="the job's TOML file; --keys lists what may stand in it")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="changes", help="change a key; may be repeated")
    parser.add_argument("--run", metavar="DIR", dest="folder", help="the run's folder (default: runs/<name of CONFIG>, numbered if taken)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in the folder, if there is one")
    parser.add_argument("--keys", action=Show, text=_keys, help="show every key of CONFIG with its default and meaning")
    parser.set_defaults(run=run)


def _keys() -> str:
    from hpcml.config.meanings import keys_text

    return keys_text()


def run(args: argparse.Namespace) -> int:
    """Train, and print where the run is kept."""
    from hpcml.build import build_job
    from hpcml.cli.data_options import Shown
    from hpcml.config import load
    from hpcml.exporting import load_weights
    from hpcml.opening import quiet
    from hpcml.train import Progress, Recorder
    from hpcml.train.recorder import write_whole
    from hpcml.train.takeover import Takeover

    comm = begin(args)
    config = None
    with comm.together():
        config = load(args.config, args.changes)
    comm.agree_all(config.flat(), "the config's")
    folder = choose_folder(args.folder, Path(args.config).stem, args.resume, comm)
    with made(folder, comm):
        hooks = [Progress(), Recorder(folder, config.run.log_every)]
        told = Shown("hpcml train") if comm.rank == 0 else quiet
        keys = config.model
        begin_with = partial(load_weights, source=keys.weights, modules=keys.modules or None) if keys.weights else None
        job = build_job(config, comm, folder, args.resume, hooks, told, begin_with)
        require_epochs_left(job.trainer, config.train.epochs, folder)
        with comm.together():
            if comm.rank == 0:
                write_whole(folder / "config.toml", job.config.to_toml())
        rest = partial(build_job, job.config, folder=folder, resume=True, hooks=hooks, told=told, begin=begin_with)
        steady = Takeover(job.trainer, lambda left: rest(left).trainer, survive=config.run.survive)
    metrics = steady.run(config.train.epochs)
    trainer = steady.trainer
    trainer.close()
    if trainer.comm.rank == 0:
        shown = "".join(f"  {name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items() if name.startswith("test_"))
        print(f"done: {trainer.count} steps{shown}\nweights sha256 {trainer.weights_sha256}\nrun kept in {folder}", flush=True)
    return 0


def choose_folder(wanted: str | None, stem: str, resume: bool, comm: Communicator) -> Path:
    """Return the run's folder, equal on all ranks; it may not be there yet.

    Raises:
        RunError: on every rank, if the folder holds a run and `resume` is false.
    """
    folder = Path()
    with comm.together():
        if comm.rank == 0:
            folder = Path(wanted) if wanted else next_folder(Path("runs"), stem, resume)
            if not resume and holds_run(folder):
                raise RunError(f"{folder} already holds a run; add --resume to go on with it, or give another --run")
    return Path(comm.broadcast_bytes(str(folder).encode()).decode())


@contextmanager
def made(folder: Path, comm: Communicator) -> Iterator[None]:
    """Make the run's folder on rank 0, and if the block fails remove what this start put there: files, and folders left empty.

    Raises:
        RunError: on every rank, if the folder cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()] if comm.rank == 0 else []
    with comm.together():
        if comm.rank == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"{folder}: cannot be made ({error.strerror}); give another --run") from error
    before = set(folder.iterdir()) if comm.rank == 0 else set()
    try:
        yield
    except BaseException:
        if comm.rank == 0:
            with suppress(OSError):
                for path in set(folder.iterdir()) - before:
                    path.unlink()
                for path in new:
                    path.rmdir()
        raise


def require_epochs_left(trainer: Trainer, epochs: int, folder: Path) -> None:
    """Raise RunError on every rank if a resumed run has done more than this many epochs: its config would say what is not true."""
    if (trainer.epoch, trainer.position) > (epochs, 0):
        done = f"{trainer.epoch} epochs and {trainer.position} steps"
        raise everywhere(
            RunError(f"{folder}: train.epochs is {epochs}, but {done} are done; give {trainer.epoch + (trainer.position > 0)} or more")
        )


def next_folder(parent: Path, stem: str, resume: bool) -> Path:
    """Return parent/stem, or the next free parent/stem-2, -3, ...; to resume, the newest that exists."""
    pattern = re.compile(re.escape(stem) + r"(?:-(\d+))?")
    matches = {int(found[1] or 1): path for path in parent.glob(f"{stem}*") if (found := pattern.fullmatch(path.name)) and holds_run(path)}
    if not matches:
        return parent / stem
    last = max(matches)
    return matches[last] if resume else parent / f"{stem}-{last + 1}"


def holds_run(folder: Path) -> bool:
    """Return whether the folder holds something to lose.

    A run that was killed before its first checkpoint left nothing but a log, which a new start goes on with. A config.toml without
    that log was not put there by a run: it may be the user's own, and must not be overwritten.
    """
    if any((folder / "checkpoints").glob("step-*")) or (folder / "summary.json").exists():
        return True
    return (folder / "config.toml").exists() and not (folder / "metrics.jsonl").exists()
