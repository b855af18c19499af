"""What a checkpoint of a trainer holds, and how a trainer goes on from one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.errors import CheckpointError, NumericsError, RunError
from hpcml.sync.synchroniser import restore
from hpcml.train import checkpoint
from hpcml.train.checkpoint import Checkpoint, sha256_of_weights
from hpcml.train.conditions import conditions

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


KEYS = {
    "parameter layout": "model.*",
    "loss": "train.loss",
    "optimizer": "optimizer.*, rate.*",
    "synchroniser": "sync.*",
    "training data": "data.train",
    "global batch": "train.batch",
    "virtual workers": "train.virtual_workers",
    "seed": "train.seed",
    "sampling": "data.shuffle, data.block, data.window",
    "batch statistics": "model.synchronised",
    "transforms": "data.transforms",
    "micro-batch": "train.micro_batch",
    "kernels": "train.kernels",
    "precision": "train.precision",
}
"""The keys of a config that decide each part of a run's identity."""

LEFT_OUT = {"kernels": "numpy", "precision": "float32", "micro-batch": "0", "batch statistics": "of each worker"}
"""What a part means that a run's identity leaves out; of the others there is nothing."""

FIELDS = {
    "value": "optimizer.rate",
    "steps": "the rate's length in steps (train.epochs, rate.warmup_epochs)",
    "factor": "rate.factor",
    "floor": "rate.floor",
    "norm": "optimizer.clip",
}
"""What the config calls the fields of rates and rules; the others have the same names there."""


@dataclass(frozen=True, slots=True)
class Saving:
    """Where checkpoints go, how often, how many stay, and whether to go on from the newest.

    Args:
        folder: the run's folder, on a file system that all ranks share.
        every: steps between checkpoints; there is one at each epoch's end in any case.
        keep: how many checkpoints stay, 1 or more.
        resume: go on from the newest whole checkpoint, if there is one.
    """

    folder: Path
    every: int = 0
    keep: int = 3
    resume: bool = False

    def newest(self, comm: Communicator, notes: list[str]) -> Checkpoint | None:
        """Return the checkpoint to go on from, on every rank, or None; add to notes what was passed over and why.

        Raises:
            RunError: on every rank, if the folder holds checkpoints that a run that does not resume would mix with its own.
            CheckpointError: on every rank, if there are checkpoints but none is whole: a fresh run would end by removing them.
        """
        if not self.resume:
            with comm.together():
                if comm.rank == 0 and checkpoint.find(Path(self.folder)):
                    raise RunError(f"{self.folder} already holds checkpoints; resume from them, or give another folder")
            return None
        found, problems = checkpoint.newest_together(Path(self.folder), comm)
        if found is None and problems:
            text = f"{self.folder}: no whole checkpoint among {len(problems)}; move {Path(self.folder) / 'checkpoints'} away to start anew"
            raise everywhere(CheckpointError("\n".join([text, *problems])))
        notes += [f"checkpoint passed over: {problem}" for problem in problems]
        if found is not None:
            notes.append(f"going on from {found.path.name}")
        return found


def save(trainer: Trainer, saving: Saving) -> str:
    """Write a checkpoint of the trainer as it stands, from all ranks, and return the sha256 of its weights.

    Raises:
        NumericsError: on every rank, if a weight is not finite; nothing is written.
        CheckpointError: on every rank, if any rank cannot write.
    """
    trainer.sync.consensus()
    weights = to_host(trainer.model.arena.data)
    if not np.isfinite(weights).all():
        where = trainer.where()
        raise everywhere(NumericsError(f"{where}: a weight is not finite; lower optimizer.rate, older checkpoints are as they were"))
    digest = sha256_of_weights(weights)
    manifest: dict[str, Any] = {
        "step": trainer.count,
        "epoch": trainer.epoch,
        "position": trainer.position,
        "workers": trainer.workers,
        "ranks": trainer.comm.size,
        "identity": trainer.identity,
        "meter": trainer.meter.state(),
        "audit": trainer.audit.state(),
        "metrics": trainer.metrics,
        "conditions": conditions(),
        "row_shape": trainer.model.shape,
        "layout": trainer.model.arena.layout(),
        "weights_sha256": digest,
        **lost_so_far(trainer),
        **scale_so_far(trainer),
    }
    hosted = [worker for worker in trainer.hosted if not trainer.sync.lost(worker, trainer.count)]
    workers = {worker: trainer.sync.worker_state(worker) for worker in hosted}
    shared = {"weights": weights, **trainer.sync.shared_state()}
    checkpoint.save(Path(saving.folder), trainer.comm, manifest, shared, workers, saving.keep)
    return digest


def lost_so_far(trainer: Trainer) -> dict[str, list[list[int]]]:
    """Return {"losses": [[step, group], ...]}, the groups that a run has lost until now, as sync.losses takes them; {} if it has none."""
    if not trainer.sync.losable:
        return {}
    losses = [[step, group] for group, step in sorted(trainer.sync.losses.items()) if step <= trainer.count]
    return {"losses": losses} if losses else {}


def scale_so_far(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Return {"loss_scale": the state of the run's scaler}; {} if it has none."""
    return {} if trainer.scaler is None else {"loss_scale": trainer.scaler.state()}


def go_on(trainer: Trainer, found: Checkpoint | None) -> None:
    """Overwrite the trainer's state with a checkpoint, if there is one, whatever number of ranks wrote it.

    Raises:
        CheckpointError: on every rank, naming each setting that differs from the checkpoint's, or the file that cannot be read.
    """
    if found is None:
        return
    require_same_run(trainer.identity, found)
    if found.manifest.get("losses"):
        trainer.sync.lose(map(tuple, found.manifest["losses"]))
        trainer.sync.part(found.step)
    with trainer.comm.together():
        device = trainer.model.arena.device
        restore(trainer.sync.shared_state(), found.shared(), device)
        for worker in trainer.hosted:
            if trainer.sync.lost(worker, found.step):
                continue
            restore(trainer.sync.worker_state(worker), found.worker(worker), device)
    trainer.sync.settle()
    then, now = found.manifest["conditions"], conditions()
    # What one of them alone tells of is in the run's identity, where it matters: a process remembers the fused steps of an earlier run.
    changed = [f"{key} {then[key]} then, {now[key]} now" for key in now if key in then and then[key] != now[key]]
    if changed:
        trainer.notes.append(f"the checkpoint was computed under other conditions, so its bits cannot be promised on: {'; '.join(changed)}")
    trainer.count, trainer.epoch, trainer.position = found.step, found.manifest["epoch"], found.manifest["position"]
    trainer.metrics, trainer.weights_sha256 = found.manifest["metrics"], found.manifest["weights_sha256"]
    trainer.meter.restore(found.manifest["meter"])
    trainer.audit.restore(found.manifest["audit"])
    if trainer.scaler is not None:
        trainer.scaler.restore(found.manifest["loss_scale"])


def require_same_run(identity: dict[str, str], found: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint was written by a run with this identity."""
    there = found.manifest["identity"]
    both = [(key, *(side.get(key, LEFT_OUT.get(key, "none")) for side in (identity, there))) for key in identity | there]
    differ = [_difference(key, now, then) for key, now, then in both if now != then]
    if differ:
        text = f"{found.path}: of another run: {'; '.join(differ)}; resume with the run's own settings, or start anew in another folder"
        raise everywhere(CheckpointError(text))


def _difference(key: str, now: str, then: str) -> str:
    """Return in plain words how a part of a run's identity differs, with the config's keys that decide it."""
    keys = KEYS.get(key, "")
    shown = f"{key} ({keys})" if keys else key
    if key not in ("optimizer", "synchroniser"):
        return f"{shown} is {now}, the checkpoint's is {then}"
    kinds = [re.findall(r"\w+(?=\()", text) for text in (now, then)]
    if kinds[0] != kinds[1]:
        return f"{shown} is {' with '.join(kinds[0])}, the checkpoint's is {' with '.join(kinds[1])}"
    pairs = zip(*(re.findall(r"(\w+)=([^,()]+)", text) for text in (now, then)), strict=False)
    section = {"optimizer": "optimizer", "synchroniser": "sync"}[key]
    words = [f"{FIELDS.get(name, f'{section}.{name}')} is {a}, the checkpoint's is {b}" for (name, a), (_, b) in pairs if a != b]
    return "; ".join(words) or f"{shown} is {now}, the checkpoint's is {then}"
