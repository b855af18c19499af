"""The only place where names become objects: a Config to data sets, a model, a rule, a trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from hpcml.comm.communicator import Communicator
from hpcml.comm.device_start import start_device_roads
from hpcml.config import Config
from hpcml.config.recipes import apply_recipe
from hpcml.data import ShardedDataset
from hpcml.data.loader import AHEAD
from hpcml.data.sizing import choose_block, fit_window, parse_bytes, row_bytes
from hpcml.errors import ConfigError
from hpcml.modelling import build_loss, build_model, compile_kernels, require_shapes, resolve_loss, resolve_outputs
from hpcml.nn import Model
from hpcml.opening import Progress, kept, open_train_and_test, quiet
from hpcml.optim import LAMB, LARS, SGD, AdaGrad, AdamW, Clipped, Constant, Cosine, Rate, Rule, Steps, Warmup, linear_scaling
from hpcml.synchronising import build_sync
from hpcml.train import Hook, Saving, Trainer
from hpcml.train.checkpoint import find
from hpcml.train.splits import diagnose
from hpcml.transforming import keep_statistics, shape_of_rows, transformed

Made = TypeVar("Made")

Begin = Callable[[Model], object] | None
"""What overwrites the weights that a model is made with."""


@dataclass(frozen=True, slots=True)
class Job:
    """A trainer and the config that it was built from, with everything left open filled in."""

    trainer: Trainer
    config: Config


def resolve_sampling(config: Config, data: ShardedDataset, ranks: int) -> Config:
    """Return the config with data.block filled in and data.window within data.memory, on any number of ranks the same."""
    keys = config.data
    block, window = keys.block or choose_block(data.index), keys.window
    if keys.memory:
        # Where virtual_workers is left open, it will be the number of ranks, and the resolved config says so.
        share = -(-config.train.batch // (config.train.virtual_workers or ranks))
        bytes_a_row = row_bytes(data.index, np.dtype(config.model.dtype).itemsize)
        window = fit_window(window, block, share, AHEAD, bytes_a_row, parse_bytes(keys.memory, "data.memory"))
    return msgspec.structs.replace(config, data=msgspec.structs.replace(keys, block=block, window=window))


def build_rate(config: Config, steps_per_epoch: int, notes: list[str]) -> Rate:
    """Return the learning rate over the steps; a linear scaling is told in the notes."""
    keys, value = config.rate, config.optimizer.rate
    if keys.base_batch:
        scaled = linear_scaling(value, config.train.batch, keys.base_batch)
        notes.append(f"linear scaling rule: rate {value:g} x batch {config.train.batch} / base batch {keys.base_batch} = {scaled:g}")
        value = scaled
    warmup = round(keys.warmup_epochs * steps_per_epoch)
    rates: dict[str, Rate] = {
        "constant": Constant(value),
        "step": Steps(value, max(1, round(keys.step_epochs * steps_per_epoch)), keys.factor),
        "cosine": Cosine(value, max(1, config.train.epochs * steps_per_epoch - warmup), keys.floor),
    }
    rate = rates[keys.name]
    return Warmup(rate, warmup) if warmup else rate


def build_rule(config: Config, rate: Rate) -> Rule:
    """Return the optimizer that the config names, clipped where it says so."""
    keys = config.optimizer
    rules: dict[str, Rule] = {
        "sgd": SGD(rate, keys.momentum, keys.nesterov, keys.decay),
        "adamw": AdamW(rate, keys.beta1, keys.beta2, keys.epsilon, keys.decay),
        "adagrad": AdaGrad(rate, keys.epsilon, keys.decay),
        "lamb": LAMB(rate, keys.beta1, keys.beta2, keys.epsilon, keys.decay),
        "lars": LARS(rate, keys.momentum, keys.decay, keys.trust),
    }
    rule = rules[keys.name]
    return Clipped(rule, keys.clip) if keys.clip else rule


def _rows(
    config: Config, comm: Communicator, folder: Path, told: Progress, notes: list[str]
) -> tuple[Config, ShardedDataset, ShardedDataset | None]:
    """Return the config with loss and outputs filled in, and the rows to train and to test on."""
    train, test = open_train_and_test(
        config, comm, told, lambda index: _fitting(require_shapes, config, shape_of_rows(index, config)), notes
    )
    statistics = keep_statistics(config, train, comm, folder)
    train, test = transformed(train, config, statistics, comm), test and transformed(test, config, statistics, comm)
    config = resolve_outputs(resolve_loss(config, train), train, comm)
    train = kept(train, config.data, config.model.dtype, comm, notes)
    return config, train, test and kept(test, config.data, config.model.dtype, comm, notes)


def _fitting(make: Callable[[Config, tuple[int, ...]], Made], config: Config, row: tuple[int, ...]) -> Made:
    """Return what `make` makes of a config and the shape of a row; where memory is short, the error names the sizes."""
    try:
        return make(config, row)
    except MemoryError as error:
        keys = ", ".join(f"model.{key} = {value}" for key, value in msgspec.to_builtins(config.model).items() if value)
        text = f"make the sizes among {keys} smaller, over rows of shape {row}"
        raise ConfigError(f"the model does not fit into memory ({error}); {text}") from error


def build_job(
    config: Config, comm: Communicator, folder: Path, resume: bool, hooks: Sequence[Hook], told: Progress = quiet, begin: Begin = None
) -> Job:
    """Return the trainer of a job and its resolved config.

    Args:
        config: as loaded, equal on all ranks.
        comm: all ranks.
        folder: of the run.
        resume: go on from the newest whole checkpoint.
        hooks: called around the loop.
        told: how far this rank is with what comes before the loop.
        begin: overwrites the first weights on rank 0, from which all ranks get them; not called where a checkpoint gives them.

    Raises:
        HpcmlError: on every rank, for anything that cannot be run.
    """
    config, recipe = apply_recipe(config)
    kept_notes: list[str] = []
    config, train, test = _rows(config, comm, folder, told, kept_notes)
    compile_kernels(config, comm, told)
    comm, notes = start_device_roads(comm, config.run.device, config.run.device_road)
    with comm.together():
        config = resolve_sampling(config, train, comm.size)
        model, loss = _fitting(build_model, config, train.x.shape), build_loss(config)
        if config.train.batch > train.rows:
            raise ConfigError(f"train.batch is {config.train.batch}, the training data have {train.rows} rows; make the batch smaller")
        steps_per_epoch = -(-train.rows // config.train.batch)
        if begin is not None and comm.rank == 0 and not (resume and find(folder)):
            begin(model)
        rule = build_rule(config, build_rate(config, steps_per_epoch, notes))
    own = {"own": True} if config.sync.name == "ensemble" else {}  # members keep their rows; other runs' identity stays as it was
    trainer = Trainer(
        model,
        loss,
        rule,
        build_sync(config, steps_per_epoch, comm, notes),
        train,
        batch=config.train.batch,
        workers=config.train.virtual_workers or None,
        seed=config.train.seed,
        micro_batch=config.train.micro_batch,
        graph=config.train.graph,
        test=test,
        comm=comm,
        device=config.run.device,
        threads=config.run.threads or None,
        sampling={"shuffle": config.data.shuffle, "block": config.data.block, "window": config.data.window} | own,
        loading={"threads": config.data.threads, "quarantine": config.data.on_corrupt == "quarantine"},
        saving=Saving(folder, config.run.checkpoint_every, config.run.keep, resume),
        hooks=hooks,
    )
    if own and trainer.loss.integer_target and not trainer.loss.each_position:
        trainer.notes.append(diagnose(trainer))
    trainer.notes += recipe + kept_notes + notes
    resolved = msgspec.structs.replace(config.train, virtual_workers=trainer.workers)
    return Job(trainer, msgspec.structs.replace(config, train=resolved))
