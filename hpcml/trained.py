"""A finished or stopped run as something to use: its config, its newest checkpoint, its model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcml.arrays import choose_device
from hpcml.comm.communicator import Communicator, everywhere
from hpcml.config import Config, load_run
from hpcml.data import ShardedDataset
from hpcml.errors import CheckpointError, RunError, ShapeError
from hpcml.modelling import build_loss, build_model, compile_kernels
from hpcml.nn import Loss, Model
from hpcml.sync import COMBINES
from hpcml.train.checkpoint import Checkpoint, newest_together
from hpcml.train.committee import Committee
from hpcml.train.conditions import fix_blas_threads
from hpcml.train.evaluation import Judge
from hpcml.train.identity import require_hosts


@dataclass(frozen=True, slots=True)
class Trained:
    """A run's model with the weights of its newest whole checkpoint."""

    config: Config
    checkpoint: Checkpoint
    model: Model
    loss: Loss
    workers: int
    problems: list[str]
    judge: Judge
    """What predicts: the model, or an ensemble's members together."""

    def say_problems(self, comm: Communicator) -> None:
        """Write to rank 0's standard error which newer checkpoints were passed over, and why."""
        if comm.rank == 0:
            for problem in self.problems:
                sys.stderr.write(f"hpcml: note: checkpoint passed over: {problem}\n")

    def require_fit(self, data: ShardedDataset) -> None:
        """Raise ShapeError unless the model takes the data's rows."""
        if tuple(data.x.shape) != self.model.shape:
            raise ShapeError(f"the data's rows have shape {tuple(data.x.shape)}, the run's model takes {self.model.shape}")


def load_together(folder: Path, comm: Communicator, device: str = "") -> Trained:
    """Return the model of a run, on every rank, on this kind of device or the one that the run's config names.

    Raises:
        RunError: on every rank, if the folder holds no run.
        CheckpointError: on every rank, if it has no whole checkpoint.
        ConfigError: on every rank, if there are more ranks than virtual workers.
    """
    config: Config | None = None
    with comm.together():
        if not (folder / "config.toml").is_file():
            raise RunError(f"{folder}: no run here (config.toml is missing); give the folder that `hpcml train` named")
        config = load_run(folder)
    found, problems = newest_together(folder, comm)
    if found is None:
        raise everywhere(
            CheckpointError("\n".join([f"{folder}: no whole checkpoint; train it again, or further with --resume", *problems]))
        )
    workers = int(found.manifest["workers"])
    require_hosts(workers, comm.size)
    compile_kernels(config, comm)
    inside, across = comm.by_node()
    fix_blas_threads(inside.size, config.train.exact, config.run.threads or None)
    local_rank = inside.rank
    inside.free()
    across.free()
    with comm.together():
        model = build_model(config, _row_shape(found))
        model.move(choose_device(device or config.run.device, local_rank))
        model.arena.data[...] = model.arena.device.place(found.shared()["weights"])
        loss = build_loss(config)
        judge = committee_of(found, config, model, loss, workers)
    return Trained(config, found, model, loss, workers, problems, judge)


def committee_of(found: Checkpoint, config: Config, model: Model, loss: Loss, workers: int) -> Judge:
    """Return an ensemble's members, or the caches' models, as the checkpoint weighs them; else, and in a warm start, the model itself."""
    shared = found.shared()
    if "member_weights" not in shared or not shared.get("warm", np.ones(1))[0]:
        return model
    states = [found.worker(worker) for worker in range(workers)]
    members = [model.arena.device.place(data) for state in states for data in state.get("cache", [state["data"]])]
    return Committee(model, loss, members, shared["member_weights"], COMBINES[config.sync.combine])


def _row_shape(found: Checkpoint) -> tuple[int, ...]:
    return tuple(found.manifest["row_shape"])
