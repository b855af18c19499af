"""A job in one typed file: TOML in, `--set a.b=c` on top, every key with a default, unknown keys refused with the near one.

This page is the list of all keys. `load` gives a Config; `to_toml` writes it back as resolved.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from hpcml.errors import ConfigError


class DataConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which rows: glob patterns of HDF5 shards, and the names of the data sets inside them."""

    train: str
    test: str = ""
    features: str = "x"
    target: str = "y"
    shuffle: Literal["none", "block", "window", "global"] = "window"
    block: int = 32
    window: int = 64


class ModelConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which model: its name, hidden layers where it has any, and outputs (0: as many as the training target has classes or columns)."""

    name: Literal["mlp", "softmax", "linear"] = "mlp"
    hidden: list[int] = []
    outputs: int = 0
    dtype: Literal["float32", "float64"] = "float32"


class TrainConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How long and over how many rows; `virtual_workers` 0 is the number of ranks at the first start."""

    epochs: int = 10
    batch: int = 128
    virtual_workers: int = 0
    exact: bool = True
    seed: int = 0
    loss: Literal["auto", "softmax-cross-entropy", "squared-error"] = "auto"


class OptimizerConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The rule that moves the parameters; keys that a rule does not have must be left at their defaults."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    trust: float = 0.001
    clip: float = 0.0


class RateConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How the learning rate goes over the epochs; `base_batch` scales it linearly by train.batch / base_batch, and says so."""

    name: Literal["constant", "step", "cosine"] = "constant"
    warmup_epochs: float = 0.0
    step_epochs: float = 10.0
    factor: float = 0.1
    floor: float = 0.0
    base_batch: int = 0


class SyncConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When workers agree and by which road; "auto" is the tree where exact, else chosen by size from a measured table."""

    name: Literal["every-step", "local-steps"] = "every-step"
    every: int = 8
    reducer: Literal["auto", "tree", "all-reduce", "ring", "halving", "double-tree", "binary-tree", "doubling", "two-level", "lanes"] = (
        "auto"
    )


class RunConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where and with what: the device, BLAS threads a rank (0: chosen), steps between checkpoints (0: after each epoch), how many stay."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = 0
    checkpoint_every: int = 0
    keep: int = 3
    log_every: int = 0


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A whole job."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rate: RateConfig = RateConfig()
    sync: SyncConfig = SyncConfig()
    run: RunConfig = RunConfig()

    def flat(self) -> dict[str, Any]:
        """Return every key as "section.key" with its value."""
        return {f"{section}.{key}": value for section, keys in msgspec.to_builtins(self).items() for key, value in keys.items()}

    def to_toml(self) -> str:
        """Return the whole config as TOML, defaults written out."""
        sections = msgspec.to_builtins(self)
        return "\n".join(f"[{name}]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in keys.items()) for name, keys in sections.items())


def load(path: str | Path, changes: Sequence[str] = ()) -> Config:
    """Return the config in a TOML file with changes such as "train.epochs=5" laid over it.

    Raises:
        ConfigError: naming the file and the key: unreadable, not TOML, unknown, of a wrong type, out of range.
    """
    try:
        tree = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a job's TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for change in changes:
        _change(tree, change)
    _refuse_unknown(tree, str(path))
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_readable(error)}") from error
    _require_ranges(config, str(path))
    return config


def _change(tree: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"--set {change}: expected section.key=value, such as --set train.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string, so that no shell needs nested quotes
    part = tree.setdefault(section, {})
    if not isinstance(part, dict):
        raise ConfigError(f"--set {change}: {section!r} is not a section in the file")
    part[key] = value


def _refuse_unknown(tree: Mapping[str, Any], path: str) -> None:
    sections = {field.name: field.type for field in msgspec.structs.fields(Config)}
    for section, keys in tree.items():
        if section not in sections:
            raise ConfigError(f"{path}: unknown section [{section}]{_near(section, _all_names())}")
        if not isinstance(keys, dict):
            raise ConfigError(f"{path}: {section} must be a section, [{section}] with keys under it; got {keys!r}")
        known = [field.name for field in msgspec.structs.fields(sections[section])]
        for key in keys:
            if key not in known:
                elsewhere = [f"{other}.{key}" for other, names in _sections().items() if key in names]
                near = _near(key, known) or _near(f"{section}.{key}", elsewhere or _all_names())
                raise ConfigError(f"{path}: unknown key {section}.{key}{near}; [{section}] has {', '.join(known)}")


def _near(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _all_names() -> list[str]:
    return list(_sections()) + [f"{section}.{field}" for section, fields in _sections().items() for field in fields]


def _sections() -> dict[str, list[str]]:
    return {f.name: [key.name for key in msgspec.structs.fields(f.type)] for f in msgspec.structs.fields(Config)}


def _readable(error: msgspec.ValidationError) -> str:
    """Return msgspec's message with its path "$.train.epochs" put first as "train.epochs"."""
    text, _, where = str(error).partition(" - at ")
    key = where.strip("`").removeprefix("$").removeprefix(".")
    return f"{key}: {text[:1].lower()}{text[1:]}" if key else text


_RANGES = {
    "train.epochs": 1,
    "train.batch": 1,
    "train.virtual_workers": 0,
    "train.seed": 0,
    "data.block": 1,
    "data.window": 1,
    "sync.every": 1,
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


def _require_ranges(config: Config, path: str) -> None:
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


_UNUSED = {
    "optimizer": {
        "sgd": ("beta1", "beta2", "epsilon", "trust"),
        "adamw": ("momentum", "nesterov", "trust"),
        "lars": ("nesterov", "beta1", "beta2", "epsilon"),
    },
    "rate": {
        "constant": ("step_epochs", "factor", "floor"),
        "step": ("floor",),
        "cosine": ("step_epochs", "factor"),
    },
}
"""Keys of a section that mean nothing under one of its names."""

_DEFAULTS = {"optimizer": OptimizerConfig(), "rate": RateConfig()}


def _contradictions(config: Config) -> Iterator[str]:
    if config.train.exact and config.sync.reducer not in ("auto", "tree"):
        text = f'sync.reducer = "{config.sync.reducer}" cannot be exact: its bits depend on the ranks'
        yield f'{text}; set train.exact = false, or reducer = "tree"'
    if config.model.name != "mlp" and config.model.hidden:
        yield f'model.hidden is {config.model.hidden}, but a "{config.model.name}" model has no hidden layers; use name = "mlp"'
    if config.optimizer.nesterov and not config.optimizer.momentum:
        yield "optimizer.nesterov = true means nothing without optimizer.momentum; set both, or neither"
    flat = config.flat()
    for section, unused in _UNUSED.items():
        chosen, defaults = flat[f"{section}.name"], msgspec.to_builtins(_DEFAULTS[section])
        for key in unused[chosen]:
            if flat[f"{section}.{key}"] != defaults[key]:
                yield f'{section}.{key} means nothing to "{chosen}"; leave it out, or set it to {_toml(defaults[key])}'


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")  # the one character that JSON allows and TOML does not
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
