"""What a value may be, and which values contradict each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from hpcml.config.keys import Config, OptimizerConfig, RateConfig, SyncConfig, as_toml
from hpcml.errors import ConfigError

_RANGES = {
    "train.epochs": 1,
    "train.batch": 1,
    "train.virtual_workers": 0,
    "train.seed": 0,
    "data.block": 0,
    "data.threads": 1,
    "data.window": 1,
    "sync.every": 1,
    "sync.warm_epochs": 0,
    "sync.outer_rate": 0,
    "sync.groups": 0,
    "run.threads": 0,
    "run.checkpoint_every": 0,
    "run.keep": 1,
    "run.log_every": 0,
    "model.outputs": 0,
    "optimizer.rate": 0,
    "optimizer.clip": 0,
    "rate.warmup_epochs": 0,
    "rate.base_batch": 0,
    "rate.step_epochs": 0,
    "rate.factor": 0,
    "rate.floor": 0,
    "optimizer.momentum": 0,
    "optimizer.decay": 0,
    "optimizer.beta1": 0,
    "optimizer.beta2": 0,
    "optimizer.epsilon": 0,
    "optimizer.trust": 0,
}
"""The smallest value of each key that has one."""

_BELOW_ONE = ("optimizer.momentum", "optimizer.beta1", "optimizer.beta2")
"""Keys whose sums of old gradients grow without end from 1 on."""


def require_ranges(config: Config, path: str) -> None:
    """Raise ConfigError, naming the file and the key, for a value out of range or values that contradict each other."""
    flat = config.flat()
    for key, least in _RANGES.items():
        if not flat[key] >= least:
            raise ConfigError(f"{path}: {key} is {flat[key]}; it must be {least} or more")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}: {key} is {value}; it must be finite")
        if key in _BELOW_ONE and not value < 1:
            raise ConfigError(f"{path}: {key} is {value}; it must be below 1")
    if any(width < 1 for width in config.model.hidden):
        raise ConfigError(f"{path}: model.hidden is {config.model.hidden}; each layer needs 1 or more units")
    for problem in _contradictions(config):
        raise ConfigError(f"{path}: {problem}")


_OUTER = ("outer", "outer_rate", "outer_momentum", "outer_nesterov")
_ELASTIC = ("groups", "moving")
_GOSSIP = ("topology", "matrix", "earlier")

_UNUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizer.name": {
        "sgd": ("beta1", "beta2", "epsilon", "trust"),
        "adamw": ("momentum", "nesterov", "trust"),
        "lars": ("nesterov", "beta1", "beta2", "epsilon"),
    },
    "rate.name": {
        "constant": ("step_epochs", "factor", "floor"),
        "step": ("floor",),
        "cosine": ("step_epochs", "factor"),
    },
    "sync.name": {
        "every-step": ("schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP),
        "local-steps": (*_ELASTIC, *_GOSSIP),
        "elastic": ("schedule", *_OUTER, *_GOSSIP),
        "gossip": ("schedule", *_OUTER, *_ELASTIC),
        "push-sum": ("schedule", "earlier", *_OUTER, *_ELASTIC),
        "delayed": ("schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP),
    },
    "sync.outer": {
        "average": ("outer_rate", "outer_momentum", "outer_nesterov"),
        "slow-momentum": ("outer_nesterov",),
        "adamw": ("outer_momentum", "outer_nesterov"),
    },
}
"""Keys of a section that mean nothing under one value of the key that chooses among them."""

_DEFAULTS = {"optimizer": OptimizerConfig(), "rate": RateConfig(), "sync": SyncConfig()}


def _contradictions(config: Config) -> Iterator[str]:
    if config.train.exact and config.sync.reducer not in ("auto", "tree"):
        text = f'sync.reducer = "{config.sync.reducer}" cannot be exact: its bits depend on the ranks'
        yield f'{text}; set train.exact = false, or reducer = "tree"'
    if config.model.name != "mlp" and config.model.hidden:
        yield f'model.hidden is {config.model.hidden}, but a "{config.model.name}" model has no hidden layers; use name = "mlp"'
    if config.optimizer.nesterov and not config.optimizer.momentum:
        yield "optimizer.nesterov = true means nothing without optimizer.momentum; set both, or neither"
    momentum = config.sync.outer_momentum
    if momentum != "auto" and not 0 <= float(momentum) < 1:
        yield f'sync.outer_momentum is {momentum}; it must be 0 or more and below 1, or "auto"'
    if (config.sync.topology == "matrix") != bool(config.sync.matrix):
        yield 'sync.topology = "matrix" and sync.matrix, a row of weights a worker, need each other; set both, or neither'
    flat = config.flat()
    for chooser, unused in _UNUSED.items():
        section = chooser.partition(".")[0]
        chosen, defaults = flat[chooser], msgspec.to_builtins(_DEFAULTS[section])
        for key in unused.get(chosen, ()):
            if flat[f"{section}.{key}"] != defaults[key]:
                yield f'{section}.{key} means nothing to "{chosen}"; leave it out, or set it to {as_toml(defaults[key])}'
