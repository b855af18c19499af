"""What a value may be, and which values contradict each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from hpcml.config.graphs import graph_contradictions
from hpcml.config.keys import Config, ModelConfig, OptimizerConfig, RateConfig, SyncConfig, TrainConfig, as_toml
from hpcml.config.losses import loss_contradictions
from hpcml.config.precision import precision_contradictions
from hpcml.config.strategies import full_batch_contradictions, server_contradictions
from hpcml.errors import ConfigError

_RANGES = {
    "train.epochs": 1,
    "train.batch": 1,
    "train.virtual_workers": 0,
    "train.seed": 0,
    "data.block": 0,
    "data.threads": 1,
    "data.window": 1,
    "data.pad_to": 0,
    "sync.every": 1,
    "sync.warm_epochs": 0,
    "sync.outer_rate": 0,
    "sync.groups": 0,
    "sync.memory": 1,
    "server.bound": 0,
    "server.threshold": 0,
    "server.regions": 0,
    "server.inside": -1,
    "server.ranks": 1,
    "server.groups": 0,
    "server.compensation": 0,
    "server.warm": 0,
    "server.fetch": 1,
    "server.push": 1,
    "server.beta": 0,
    "server.cache": 0,
    "sync.spare": 0,
    "run.threads": 0,
    "run.checkpoint_every": 0,
    "run.keep": 1,
    "run.log_every": 0,
    "model.outputs": 0,
    "model.blocks": 1,
    "train.micro_batch": 0,
    "model.layers": 1,
    "model.width": 1,
    "model.heads": 1,
    "model.context": 0,
    "model.vocabulary": 1,
    "model.buckets": 1,
    "model.dropout": 0,
    "model.attention_dropout": 0,
    "model.steps": 1,
    "model.radius": 0,
    "model.halving": 1,
    "model.kept": 0,
    "train.label_smoothing": 0,
    "train.margin": 0,
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

_BELOW_ONE = (
    *("model.dropout", "model.attention_dropout", "model.kept", "train.label_smoothing"),
    *("optimizer.momentum", "optimizer.beta1", "optimizer.beta2"),
)
"""Keys that are a share: of old gradients, whose sums grow without end from 1 on, of a target, or of what is dropped."""


_ABOVE_ZERO = ("model.highest", "train.delta")

_INSTEAD = {"server.ranks": ', or "all": every rank both serves and computes'}
"""Words that a key takes beside numbers, and what they mean."""


def require_ranges(config: Config, path: str) -> None:
    """Raise ConfigError, naming the file and the key, for a value out of range or values that contradict each other."""
    flat = config.flat()
    for key, least in _RANGES.items():
        if isinstance(flat[key], str):  # a word beside the numbers, which the type of the key names
            continue
        if not flat[key] >= least:
            near = _INSTEAD.get(key, "")
            raise ConfigError(f"{path}: {key} is {flat[key]}; it must be {least} or more{near}")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}: {key} is {value}; it must be finite")
        if key in _BELOW_ONE and not value < 1:
            raise ConfigError(f"{path}: {key} is {value}; it must be below 1")
        if key in _ABOVE_ZERO and not value > 0:
            raise ConfigError(f"{path}: {key} is {value}; it must be above 0")
    for key in ("model.hidden", "model.shape", "model.channels", "model.grid"):
        if any(length < 1 for length in flat[key]):
            raise ConfigError(f"{path}: {key} is {flat[key]}; each number must be 1 or more")
    if any(not 0 <= weight < math.inf for weight in config.train.class_weights):
        raise ConfigError(f"{path}: train.class_weights is {config.train.class_weights}; each number must be finite and 0 or more")
    for problem in _contradictions(config):
        raise ConfigError(f"{path}: {problem}")


_OUTER = ("outer", "outer_rate", "outer_momentum", "outer_nesterov")
_ELASTIC = ("groups", "moving", "losses")
_GOSSIP = ("topology", "matrix", "earlier")
_BACKUP = ("spare", "slow", "arrivals")

_UNUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "optimizer.name": {
        "sgd": ("beta1", "beta2", "epsilon", "trust"),
        "adamw": ("momentum", "nesterov", "trust"),
        "lars": ("nesterov", "beta1", "beta2", "epsilon"),
        "adagrad": ("momentum", "nesterov", "beta1", "beta2", "trust"),
        "lamb": ("momentum", "nesterov", "trust"),
    },
    "rate.name": {
        "constant": ("step_epochs", "factor", "floor"),
        "step": ("floor",),
        "cosine": ("step_epochs", "factor"),
    },
    "sync.name": {
        "every-step": ("every", "schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, "combine", "memory"),
        "local-steps": (*_ELASTIC, *_GOSSIP, *_BACKUP, "combine", "memory"),
        "elastic": ("schedule", *_OUTER, *_GOSSIP, *_BACKUP, "combine", "memory"),
        "gossip": ("schedule", *_OUTER, *_ELASTIC, *_BACKUP, "combine", "memory"),
        "push-sum": ("schedule", "earlier", *_OUTER, *_ELASTIC, *_BACKUP, "combine", "memory"),
        "delayed": ("every", "schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, *_BACKUP, "combine", "memory"),
        "parameter-server": ("every", "schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, "slow", "arrivals", "combine", "memory"),
        "downpour": ("every", "schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, *_BACKUP, "combine", "memory"),
        "async-easgd": ("schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, *_BACKUP, "combine", "memory"),
        "ensemble": ("every", "schedule", *_OUTER, *_ELASTIC, *_GOSSIP, *_BACKUP, "memory"),
        "gossip-learning": ("every", "schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, *_BACKUP, "memory"),
        "lbfgs": ("every", "schedule", "warm_epochs", *_OUTER, *_ELASTIC, *_GOSSIP, *_BACKUP, "combine"),
    },
    "sync.schedule": {"once": ("every",)},
    "sync.outer": {
        "average": ("outer_rate", "outer_momentum", "outer_nesterov"),
        "slow-momentum": ("outer_nesterov",),
        "adamw": ("outer_momentum", "outer_nesterov"),
    },
}
"""Keys of a section that mean nothing under one value of the key that chooses among them."""

MODEL_KEYS = {
    "mlp": ("hidden",),
    "softmax": (),
    "linear": (),
    "logistic": (),
    "svm": (),
    "lenet": ("shape", "channels", "hidden"),
    "resnet": ("shape", "channels", "blocks", "synchronised"),
    "autoencoder": ("hidden",),
    "lstm": ("shape", "hidden"),
    "transformer": (
        *("layers", "width", "heads", "context", "vocabulary", "dropout", "rotary", "recompute"),
        *("attention_dropout", "ngrams", "buckets", "recall"),
    ),
    "rbm": ("hidden", "steps", "highest"),
    "som": ("grid", "radius", "halving", "kept"),
    "hopfield": ("steps", "highest"),
}
"""The keys of [model] that each model has beside outputs and dtype."""

OWN_RULE = ("rbm", "som", "hopfield")
"""Models that learn by a rule of their own: they give rows back, and the loss only reports."""

LOSS_KEYS = {
    "softmax-cross-entropy": ("label_smoothing", "class_weights"),
    "binary-cross-entropy": ("label_smoothing", "class_weights"),
    "squared-error": (),
    "huber": ("delta",),
    "hinge": ("margin",),
    "contrastive": ("margin",),
    "token-cross-entropy": (),
}
"""The keys of [train] that each loss has."""


def _others(taken: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return, for each name, the keys that only other names have."""
    every = dict.fromkeys(key for keys in taken.values() for key in keys)
    return {name: tuple(key for key in every if key not in keys) for name, keys in taken.items()}


_UNUSED |= {"model.name": _others(MODEL_KEYS), "train.loss": _others(LOSS_KEYS)}

_NEEDED = {
    "lenet": ("channels",),
    "resnet": ("channels",),
    **dict.fromkeys(("autoencoder", "lstm", "rbm"), ("hidden",)),
    "som": ("grid",),
}
"""Keys without which a model has no layers."""

_DEFAULTS = {"model": ModelConfig(), "train": TrainConfig(), "optimizer": OptimizerConfig(), "rate": RateConfig(), "sync": SyncConfig()}


def _contradictions(config: Config) -> Iterator[str]:
    flat = config.flat()
    if config.train.exact and config.sync.reducer not in ("auto", "tree"):
        text = f'sync.reducer = "{config.sync.reducer}" cannot be exact: its bits depend on the ranks'
        yield f'{text}; set train.exact = false, or reducer = "tree"'
    for key in _NEEDED.get(config.model.name, ()):
        if not flat[f"model.{key}"]:
            yield f'a "{config.model.name}" needs model.{key}, such as {key} = [16, 32]'
    if config.model.modules and not config.model.weights:
        yield "model.modules says where PyTorch's weights go, which means nothing without model.weights; set it, or leave it out"
    if config.model.name == "transformer" and config.model.outputs:
        yield f"model.outputs is {config.model.outputs}, but a transformer's outputs are its vocabulary; set model.vocabulary"
    yield from _own_rule_contradictions(config)
    if config.model.name == "transformer" and config.model.width % config.model.heads:
        yield f"model.width is {config.model.width}, which is no multiple of model.heads = {config.model.heads}"
    for key in ("ngrams", "recall"):
        lengths = flat[f"model.{key}"]
        if lengths and (min(lengths) < 1 or config.model.width % len(lengths)):
            yield f"model.{key} is {lengths}; give lengths of 1 token or more, as many as divide model.width = {config.model.width}"
    if config.data.fill != "" and config.data.cf is not True:
        yield f"data.fill is {config.data.fill}, but fill values are replaced under data.cf = true only; set it, or leave data.fill out"
    if len(config.data.sparse) not in (0, 3):
        yield f'data.sparse is {config.data.sparse}; name entries, columns and offsets, as in ["data", "indices", "indptr"]'
    if len(config.data.ragged) not in (0, 2):
        yield f'data.ragged is {config.data.ragged}; name entries and offsets, as in ["values", "offsets"]'
    if config.optimizer.nesterov and not config.optimizer.momentum:
        yield "optimizer.nesterov = true means nothing without optimizer.momentum; set both, or neither"
    momentum = config.sync.outer_momentum
    if momentum != "auto" and not 0 <= float(momentum) < 1:
        yield f'sync.outer_momentum is {momentum}; it must be 0 or more and below 1, or "auto"'
    if (config.sync.topology == "matrix") != bool(config.sync.matrix):
        yield 'sync.topology = "matrix" and sync.matrix, a row of weights a worker, need each other; set both, or neither'
    yield from server_contradictions(config)
    yield from precision_contradictions(config, OWN_RULE)
    yield from graph_contradictions(config, OWN_RULE)
    if config.sync.name == "lbfgs":
        yield from full_batch_contradictions(config)
    if (config.sync.slow or config.sync.arrivals) and not config.sync.spare:
        yield "sync.slow and sync.arrivals say who comes last, which means nothing without sync.spare; set it, or leave them out"
    if config.sync.slow and config.sync.arrivals:
        yield "sync.arrivals records who comes last, and sync.slow says it; give one of them"
    yield from loss_contradictions(config)
    if config.rate.recipe != "none" and not config.rate.base_batch:
        text = f'rate.recipe = "{config.rate.recipe}" scales the rate from the batch that it was found for'
        yield f"{text}; set rate.base_batch to that"
    for chooser, unused in _UNUSED.items():
        section = chooser.partition(".")[0]
        chosen, defaults = flat[chooser], msgspec.to_builtins(_DEFAULTS[section])
        for key in unused.get(chosen, ()):
            if flat[f"{section}.{key}"] != defaults[key]:
                yield f'{section}.{key} means nothing to "{chosen}"; leave it out, or set it to {as_toml(defaults[key])}'


def _own_rule_contradictions(config: Config) -> Iterator[str]:
    keys = config.model
    if keys.name not in OWN_RULE:
        return
    if keys.outputs:
        yield f'model.outputs is {keys.outputs}, but a "{keys.name}" gives back as many numbers as a row has; leave it out'
    if config.train.loss not in ("auto", "squared-error", "huber"):
        yield f'train.loss = "{config.train.loss}" says nothing about a "{keys.name}", which gives rows back; leave it out'
    if keys.name == "rbm" and len(keys.hidden) > 1:
        yield f"model.hidden is {keys.hidden}, but an rbm has one layer of hidden units; give one number"
