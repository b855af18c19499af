"""The run folder: config.toml as resolved, metrics.jsonl with a JSON row an event, summary.json at the end; written by rank 0.

metrics.jsonl is only ever appended to. A "start" row with resumed_from = s says that rows of steps beyond s, above it, will come again.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcml.errors import RunError
from hpcml.nn.arena import Tail
from hpcml.sync import Conits
from hpcml.train.conditions import conditions, versions
from hpcml.train.hooks import Hook
from hpcml.train.saving import scale_so_far

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


class Recorder(Hook):
    """Keeps what happened in a run as files that programs can read."""

    def __init__(self, folder: Path, log_every: int = 0) -> None:
        """Write into `folder`; with log_every > 0 also a row each so many steps."""
        self.folder, self.log_every = folder, log_every

    def before_run(self, trainer: Trainer, epochs: int) -> None:
        """Note the start: the world, the versions, and what was noticed while starting."""
        self._started, self._first = time.perf_counter(), trainer.count
        self._rows = self._epoch_rows = 0
        self._epoch_started = self._started
        with trainer.comm.together():
            if trainer.comm.rank == 0:
                self._mend(trainer, epochs)
        world = {"ranks": trainer.comm.size, "virtual_workers": trainer.workers, "hosts": sorted(set(trainer.hosts))}
        self._event("start", trainer, epochs=epochs, resumed_from=trainer.resumed_from, **world, **conditions(), versions=versions())
        self._told = 0
        self._tell(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Count rows; every log_every steps, note the position."""
        rows = trainer.sampler.step_rows(trainer.position - 1)
        self._rows += rows
        self._epoch_rows += rows
        if self.log_every and trainer.count % self.log_every == 0:
            seen = trainer.meter.seen - trainer.meter.mark
            # Not above 0 until the epoch's first exchange: what the last epoch's end took in advance is still owed.
            loss = seen[Tail.LOSS] / seen[Tail.WEIGHT] if seen[Tail.WEIGHT] > 0 else None
            self._event("step", trainer, loss_so_far=loss)

    def after_epoch(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Note the epoch's metrics and rate."""
        now = time.perf_counter()
        seconds = now - self._epoch_started
        self._tell(trainer)
        ledger = {"ledger": trainer.audit.last, **scale_so_far(trainer)}
        self._event("epoch", trainer, **metrics, seconds=seconds, rows_per_second=self._epoch_rows / seconds, **ledger)
        self._epoch_started, self._epoch_rows = now, 0

    def after_run(self, trainer: Trainer) -> None:
        """Write summary.json and note the end; a run that was already finished keeps the summary of its own end."""
        seconds = time.perf_counter() - self._started
        self._event("end", trainer, seconds=seconds, weights_sha256=trainer.weights_sha256)
        path, conits = self.folder / "summary.json", trainer.sync.conits()
        if trainer.comm.rank == 0 and (trainer.count > self._first or not path.exists()):
            write_whole(path, json.dumps(_finite(self._summary(trainer, seconds, conits)), indent=1) + "\n")

    def _summary(self, trainer: Trainer, seconds: float, conits: Conits | None) -> dict[str, Any]:
        return {
            "ranks": trainer.comm.size,
            "virtual_workers": trainer.workers,
            "steps": trainer.count,
            "epochs": trainer.epoch,
            "rows": trainer.epoch * trainer.sampler.rows,
            "seconds": seconds,
            "rows_per_second": self._rows / seconds,
            "steps_this_start": trainer.count - self._first,
            "resumed_from": trainer.resumed_from,
            "waited_for_data": trainer.loader.waited / seconds,
            "metrics": trainer.metrics,
            "conits": conits and conits.plain(),
            "weights_sha256": trainer.weights_sha256,
            "parameters": trainer.model.arena.n,
            "device": trainer.model.arena.device.name,
            "hosts": sorted(set(trainer.hosts)),
            "conditions": conditions(),
            "versions": versions(),
            **trainer.pace.measured(trainer),
            **scale_so_far(trainer),
        }

    def _mend(self, trainer: Trainer, epochs: int) -> None:
        """Make the files fit the place to go on from, whatever moment the last start was killed at."""
        path = self.folder / "metrics.jsonl"
        rows, damaged = _whole_rows(path)
        if damaged:
            lines = ", ".join(str(number) for number in damaged[:3]) + (", ..." if len(damaged) > 3 else "")
            trainer.notes.append(f"{path}: rows that cannot be read are left as they are: line {lines}")
        done = [row for row in rows if row.get("event") == "epoch" and row.get("step") == trainer.count]
        if trainer.resumed_from and not trainer.position and not done:  # killed between an epoch's checkpoint and its row
            self._event("epoch", trainer, **trainer.metrics)
        if trainer.epoch < epochs:  # a summary says that a run is complete, and this one is not any more
            (self.folder / "summary.json").unlink(missing_ok=True)

    def _tell(self, trainer: Trainer) -> None:
        """Note what was noticed since the last time."""
        for note in trainer.notes[self._told :]:
            self._event("note", trainer, text=note)
        self._told = len(trainer.notes)

    def _event(self, event: str, trainer: Trainer, **fields: Any) -> None:
        if trainer.comm.rank:  # the first of the ranks that are left: another one, after a loss
            return
        row = {"event": event, "time": time.time(), "epoch": trainer.epoch, "step": trainer.count, **_finite(fields)}
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); free space, then go on with --resume") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all: under another name first, synced to the disk, then renamed.

    Raises:
        RunError: if it cannot be written; an older file of this name stays as it was.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); free space, or give another --run") from error


def _whole_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the rows of metrics.jsonl and the numbers of lines that are none, after cutting off a last one that a kill left unfinished."""
    rows: list[dict[str, Any]] = []
    damaged: list[int] = []
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged.append(number)
    return rows, damaged


def _finite(value: Any) -> Any:
    """Return the value with null for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
