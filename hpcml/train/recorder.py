"""The run folder: config.toml as resolved, metrics.jsonl with a JSON row an event, summary.json at the end; written by rank 0."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcml.train.conditions import conditions, versions
from hpcml.train.hooks import Hook

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


class Recorder(Hook):
    """Keeps what happened in a run as files that programs can read."""

    def __init__(self, folder: Path, log_every: int = 0) -> None:
        """Write into `folder`; with log_every > 0 also a row each so many steps."""
        self.folder, self.log_every = folder, log_every
        self._active = False

    def before_run(self, trainer: Trainer, epochs: int) -> None:
        """Note the start: the world, the versions, and what was noticed while starting."""
        self._active, self._started, self._first = trainer.comm.rank == 0, time.perf_counter(), trainer.count
        self._rows = self._epoch_rows = 0
        self._epoch_started = self._started
        world = {"ranks": trainer.comm.size, "virtual_workers": trainer.workers, "hosts": sorted(set(trainer.hosts))}
        self._event("start", trainer, epochs=epochs, resumed_from=trainer.resumed_from, **world, **conditions(), versions=versions())
        self._told = 0
        self._tell(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Count rows; every log_every steps, note the position."""
        rows = min(trainer.sampler.batch, trainer.sampler.rows - (trainer.position - 1) * trainer.sampler.batch)
        self._rows += rows
        self._epoch_rows += rows
        if self.log_every and trainer.count % self.log_every == 0:
            seen = trainer.meter.seen - trainer.meter.mark
            self._event("step", trainer, loss_so_far=seen[1] / seen[0] if seen[0] else None)

    def after_epoch(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Note the epoch's metrics and rate."""
        now = time.perf_counter()
        seconds = now - self._epoch_started
        self._tell(trainer)
        ledger = {"ledger": trainer.audit.last}
        self._event("epoch", trainer, **metrics, seconds=seconds, rows_per_second=self._epoch_rows / seconds, **ledger)
        self._epoch_started, self._epoch_rows = now, 0

    def after_run(self, trainer: Trainer) -> None:
        """Write summary.json and note the end."""
        seconds = time.perf_counter() - self._started
        summary = {
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
            "weights_sha256": trainer.weights_sha256,
            "parameters": trainer.model.arena.n,
            "device": trainer.model.arena.device.name,
            "hosts": sorted(set(trainer.hosts)),
            "conditions": conditions(),
            "versions": versions(),
        }
        self._event("end", trainer, seconds=seconds, weights_sha256=trainer.weights_sha256)
        if self._active:
            write_whole(self.folder / "summary.json", json.dumps(summary, indent=1) + "\n")

    def _tell(self, trainer: Trainer) -> None:
        """Note what was noticed since the last time."""
        for note in trainer.notes[self._told :]:
            self._event("note", trainer, text=note)
        self._told = len(trainer.notes)

    def _event(self, event: str, trainer: Trainer, **fields: Any) -> None:
        if not self._active:
            return
        row = {"event": event, "time": time.time(), "epoch": trainer.epoch, "step": trainer.count, **fields}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all: under another name first, then renamed."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text)
    os.replace(partial, path)
