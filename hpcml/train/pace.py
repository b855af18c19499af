"""How an epoch goes by: all workers step by step together, or each at its own pace."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcml.arrays import span
from hpcml.data import Batch, Loader, Sampler, ShardedDataset
from hpcml.data.portions import Portions
from hpcml.errors import ConfigError, RunError
from hpcml.sync.server import OwnPacePlan, Record
from hpcml.sync.server.deal import Portion
from hpcml.sync.server.placement import Placement
from hpcml.train.recorder import write_whole
from hpcml.train.saving import lost_so_far

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer

IDENTITY = "identity.json"
"""Beside the recorded epochs: what else decides their bits."""


class LockStep:
    """Every worker takes step s before any takes step s + 1, or at least may believe so."""

    def __init__(self, data: ShardedDataset, sampler: Sampler, hosted: range, **loading: Any) -> None:
        self.loader = Loader(data, sampler, hosted, **loading)
        self.sampler, self.dealt = sampler, list(range(sampler.workers))
        self._make, self._hosted = partial(Loader, data, **loading), hosted

    def run_epoch(self, trainer: Trainer) -> None:
        """Take the steps of an epoch, from the trainer's position on."""
        self._deal(trainer)
        with closing(self.loader.batches(trainer.epoch, trainer.position)) as epoch:
            for batches in epoch:
                if len(self.dealt) < trainer.workers:
                    batches = [replace(batch, worker=self.dealt[batch.worker]) for batch in batches]
                trainer.step(batches)
                trainer.position += 1
                trainer.save_on_the_way()
                for hook in trainer.hooks:
                    hook.after_step(trainer)

    def _deal(self, trainer: Trainer) -> None:
        """Deal an epoch's rows to the workers that were there at the end of the one before; the batch stays as large."""
        last = trainer.epoch * self.sampler.steps - 1
        dealt = [worker for worker in range(trainer.workers) if not trainer.sync.lost(worker, last)]
        if len(dealt) < len(self.dealt):
            waited, self.dealt = self.loader.waited, dealt
            self.sampler = trainer.sampler.among(len(dealt))
            self.loader = self._make(sampler=self.sampler, workers=[place for place, worker in enumerate(dealt) if worker in self._hosted])
            self.loader.waited, trainer.loader = waited, self.loader

    def measured(self, trainer: Trainer) -> dict[str, Any]:
        """Return which groups the run has lost, to be added to a summary."""
        return lost_so_far(trainer)

    def close(self, trainer: Trainer) -> None:
        """Do nothing: this pace holds nothing of the world."""


class OwnPace:
    """Each worker takes its portions as fast as it can; the epoch's end is where all meet."""

    def __init__(self, data: ShardedDataset, sampler: Sampler, hosted: range, **loading: Any) -> None:
        if loading.pop("quarantine", False):
            text = "rows are left out on all ranks at once, which workers at their own pace cannot do"
            raise ConfigError(f'data.on_corrupt = "quarantine": {text}; set it to "stop", or choose sync.name = "every-step"')
        self.loader = Portions(data, sampler, hosted, **loading)
        self.steps, self._hosted = sampler.steps, hosted
        self._trainer: Trainer | None = None
        self._batches: dict[int, Batch] = {}

    def run_epoch(self, trainer: Trainer) -> None:
        """Let all workers use up the epoch, record the order of arrival, or follow a recorded one."""
        first = trainer.count
        self._trainer = trainer
        self.loader.begin(trainer.epoch)
        try:
            trainer.sync.run_epoch(self, read_record(trainer))
        finally:
            self.loader.end()
        # A rank without workers, or one that others helped, has seen fewer steps than the epoch had.
        while trainer.position < self.steps:
            trainer.count = first + trainer.position
            self._after_step(trainer)
        trainer.count = first + self.steps
        write_record(trainer)

    @property
    def epoch(self) -> int:
        """The number of the epoch that is worked on."""
        assert self._trainer is not None
        return self._trainer.epoch

    def compute(self, worker: int, portion: Portion) -> None:
        """Leave in the arena the sums over a portion's rows."""
        trainer = self._trainer
        assert trainer is not None
        lane, step = portion
        trainer.count = trainer.epoch * self.steps + step
        batch = self._batches[worker] = self.loader.batch(worker, lane, step)
        trainer.differentiate(batch)
        for hook in trainer.hooks:
            hook.after_gradient(trainer, worker)
        if worker == self._hosted.start and trainer.position < self.steps:
            self._after_step(trainer)

    def drop(self, worker: int, portion: Portion) -> None:
        """Enter a portion's rows as too late."""
        assert self._trainer is not None
        self._trainer.differentiate(self.loader.batch(worker, *portion), late=True)

    def withdraw(self, worker: int) -> None:
        """Enter the rows of the worker's last gradient as too late after all."""
        assert self._trainer is not None
        self._trainer.audit.withdraw(self._batches[worker])

    @staticmethod
    def _after_step(trainer: Trainer) -> None:
        trainer.position += 1
        for hook in trainer.hooks:
            hook.after_step(trainer)

    def measured(self, trainer: Trainer) -> dict[str, Any]:
        """Return what shards and workers counted in this start, for the summary."""
        return {"server": trainer.sync.measured}

    def close(self, trainer: Trainer) -> None:
        """Give back the synchroniser's letter box; every rank calls it."""
        trainer.sync.close()


Pace = LockStep | OwnPace


def hosted(sync: Any, workers: int, ranks: int, rank: int) -> range:
    """Return the virtual workers that a rank hosts."""
    run = Placement.of(sync.servers, workers, ranks).workers[rank] if isinstance(sync, OwnPacePlan) else span(workers, ranks, rank)
    return range(run.start, run.stop)


def hosts(sync: Any, ranks: int) -> int:
    """Return how many ranks host workers."""
    servers = sync.servers if isinstance(sync, OwnPacePlan) else None
    return ranks if servers is None or servers >= ranks else ranks - servers


def pace(sync: Any) -> type[Pace]:
    """Return how a synchroniser's epochs go by."""
    return OwnPace if isinstance(sync, OwnPacePlan) else LockStep


def record_path(folder: Path, epoch: int) -> Path:
    """Return where the arrival order of an epoch is kept."""
    return folder / "arrivals" / f"epoch-{epoch:05d}.npz"


def write_record(trainer: Trainer) -> None:
    """Keep the arrival order of the epoch that ends in the run's folder.

    Raises:
        RunError: on every rank, if rank 0 cannot write.
    """
    sync, saving = trainer.plan, trainer.saving
    if saving is None or not sync.recorded:
        return
    with trainer.comm.together():
        if trainer.comm.rank == 0:
            path = record_path(Path(saving.folder), trainer.epoch)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path.with_name(IDENTITY), json.dumps(trainer.identity, indent=1) + "\n")
                partial = path.with_name(f".partial-{path.name}")
                partial.write_bytes(trainer.sync.record.to_bytes())
                os.replace(partial, path)
            except OSError as error:
                raise RunError(f"{path}: cannot be written ({error.strerror}); free space, then go on with --resume") from error


def read_record(trainer: Trainer) -> Record | None:
    """Return the arrival order that this epoch is to follow, on every rank; None where the run is not a replay.

    Raises:
        RunError: on every rank, if there is none, it is damaged, or it belongs to a run with other settings.
    """
    folder = trainer.plan.replay
    if not folder:
        return None
    path, data = record_path(Path(folder), trainer.epoch), b""
    with trainer.comm.together():
        if trainer.comm.rank == 0:
            try:
                there = json.loads(path.with_name(IDENTITY).read_text())
                data = path.read_bytes()
            except (OSError, ValueError) as error:
                raise RunError(
                    f"{path}: no arrival order to replay ({error}); server.replay takes the folder of an asynchronous run"
                ) from error
            differ = [key for key in trainer.identity | there if there.get(key) != trainer.identity.get(key)]
            if differ:
                raise RunError(f"{folder}: recorded by a run with another {', '.join(differ)}; replay with that run's config.toml")
    data = trainer.comm.broadcast_bytes(data)
    with trainer.comm.together():
        return Record.from_bytes(data, str(path))
