"""What a person sees of a run: on a terminal a bar, elsewhere a line an epoch and in long epochs more; rank 0 only."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from hpcml.train.hooks import Hook

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


QUIET = 60.0
"""Seconds after which a log without a terminal gets a line within an epoch: who reads it asks whether the run still lives."""

GROWTH = 0.05
"""Of the time a run has taken, the least between two such lines, so that a run of days writes some hundreds."""


class Progress(Hook):
    """Shows a run's progress on a stream, standard output unless another is given."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Choose the stream; what kind of display it gets is decided when the run starts."""
        self._stream = stream
        self._bar: Any = None

    def before_run(self, trainer: Trainer, epochs: int) -> None:
        """Say what starts, and open the bar where there is a terminal."""
        self._told = 0
        self._epochs, self._started, self._rows = epochs, time.perf_counter(), 0
        self._steps, self._due = 0, self._started + QUIET
        self._stream = self._stream or sys.stdout
        if trainer.comm.rank:
            self._told = len(trainer.notes)
            return
        self._write(_describe(trainer))
        self._tell(trainer)
        if is_terminal(self._stream):
            self._open_bar(trainer, epochs)

    def after_step(self, trainer: Trainer) -> None:
        """Move the bar; where there is none, write a line when nothing has been said for long."""
        self._rows += trainer.sampler.step_rows(trainer.position - 1)
        self._steps += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.count, rate=f"{self._rate():,.0f} rows/s")
        elif trainer.comm.rank == 0 and time.perf_counter() >= self._due:
            self._say_where(trainer)

    def after_epoch(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Write the epoch's line."""
        if trainer.comm.rank:
            return
        self._tell(trainer)
        shown = "  ".join(f"{name.replace('_', ' ')} {value:{_digits(value)}}" for name, value in metrics.items())
        self._write(f"epoch {trainer.epoch:>{len(str(self._epochs))}}/{self._epochs}  {shown}  {self._rate():,.0f} rows/s")
        self._put_off()

    def after_run(self, trainer: Trainer) -> None:
        """Close the bar, and say how far the workers' models were apart."""
        self._close()
        conits = trainer.sync.conits()
        if trainer.comm.rank == 0 and conits is not None:
            self._write(f"replicas: {conits}")
        server = trainer.pace.measured(trainer).get("server")
        if trainer.comm.rank == 0 and server:
            told = f"{server['bytes_sent'] / 1e6:,.1f} MB sent between ranks"
            self._write(f"letters: {told}" + f", {server['bytes_by_formula'] / 1e6:,.1f} by the formula" * (server["bytes_by_formula"] > 0))

    def after_failure(self, trainer: Trainer) -> None:
        """Close the bar, so that the error stands on a line of its own and the terminal has its cursor back."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _tell(self, trainer: Trainer) -> None:
        """Write what was noticed since the last time."""
        for note in trainer.notes[self._told :]:
            self._write(f"note: {note}")
        self._told = len(trainer.notes)

    def _say_where(self, trainer: Trainer) -> None:
        """Write how far the run is, and how long the rest takes at its pace so far."""
        total = self._epochs * trainer.sampler.steps
        left = (total - trainer.count) * (time.perf_counter() - self._started) / self._steps
        self._write(f"step {trainer.count:,} of {total:,}  {self._rate():,.0f} rows/s  {_duration(left)} left")
        self._put_off()

    def _put_off(self) -> None:
        now = time.perf_counter()
        self._due = now + max(QUIET, GROWTH * (now - self._started))

    def _rate(self) -> float:
        """Return rows a second since the run started, evaluation counted in."""
        return self._rows / max(time.perf_counter() - self._started, 1e-9)

    def _write(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif self._stream is not None:
            self._stream.write(line + "\n")
            self._stream.flush()

    def _open_bar(self, trainer: Trainer, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps  {task.fields[rate]}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(file=self._stream), transient=True)
        self._task = self._bar.add_task("training", total=epochs * trainer.sampler.steps, completed=trainer.count, rate="")
        self._bar.start()


def _duration(seconds: float) -> str:
    """Return a time for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _digits(value: float) -> str:
    """Return the format of a metric: four decimals, or the exponent of one that has left every scale."""
    return ".4f" if abs(value) < 1e6 else ".3e"


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person sees this stream as it is written.

    Open MPI gives its ranks a terminal of its own even where mpirun writes into a file: then the launcher's output decides.
    """
    if not stream.isatty():
        return False
    if "OMPI_COMM_WORLD_SIZE" not in os.environ:
        return True
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


def _describe(trainer: Trainer) -> str:
    ranks, nodes = trainer.comm.size, len(set(trainer.hosts))
    arena = trainer.model.arena
    return (
        f"{ranks} rank{'s' * (ranks > 1)} on {nodes} host{'s' * (nodes > 1)}, {trainer.workers} virtual workers,"
        f" {trainer.sampler.rows:,} rows in batches of {trainer.sampler.batch}, {arena.n:,} parameters on {arena.device.name}"
    )
