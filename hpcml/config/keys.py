"""Every key of a job, with its type and default: this page is the list of all keys.

`Config` is a whole job; each section of the TOML file is one of the classes above it.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec


class TransformConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """One step of [[data.transforms]]; which keys a name takes is written beside it in hpcml/transforming.py."""

    name: Literal["cast", "scale", "standardise", "one-hot", "crop", "flip", "noise", "function"]
    dtype: str = "float16"
    by: float = 1.0
    shift: float = 0.0
    classes: int = 0
    height: int = 0
    width: int = 0
    axis: int = -1
    probability: float = 0.5
    deviation: float = 0.0
    function: str = ""


class DataConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which rows, and how they are read: glob patterns of HDF5 shards, and the names of the data sets inside them.

    - features: one name, or a list of names whose numbers are joined into one flat row.
    - weights: one number a row by which its loss counts; left out, all count alike.
    - cf, fill: whether attributes such as scale_factor and _FillValue are applied; what values that are none become, else they are refused.
    - sparse, ragged: the data sets of rows of variable length, where their names are not the usual ones; pad_to: their length in memory.
    - pad_with, truncate: what stands behind a ragged row; whether entries behind pad_to are left out instead of refused.
    - block: rows that stay together (0: chosen by the bytes of a row and the chunks); window: blocks mixed in memory.
    - memory: bytes that each virtual worker may hold, such as "2GB"; the window is made smaller to fit.
    - cache: decoded rows are kept after the first epoch, in each rank's "memory", or once for all ranks of a "node".
    - checksums: rows are held against the manifest beside their shard, where there is one ("auto"), or must be ("require").
    - stage: a folder on the node's own disk, such as "$TMPDIR", to which the shards are copied first.
    - transforms: what happens to the rows, step by step, in [[data.transforms]].
    - threads: how many read and decode on each rank.
    - on_corrupt: "stop", or "quarantine": go on without rows, and then shards, that cannot be read.
    """

    train: str
    test: str = ""
    features: str | list[str] = "x"
    target: str = "y"
    weights: str = ""
    cf: bool | Literal["refuse"] = "refuse"
    fill: float | Literal[""] = ""
    sparse: list[str] = []
    ragged: list[str] = []
    pad_to: int = 0
    pad_with: float = 0.0
    truncate: bool = False
    shuffle: Literal["none", "block", "window", "global"] = "window"
    block: int = 0
    window: int = 64
    memory: str = ""
    cache: Literal["none", "memory", "node"] = "none"
    checksums: Literal["auto", "off", "require"] = "auto"
    stage: str = ""
    threads: int = 2
    on_corrupt: Literal["stop", "quarantine"] = "stop"
    transforms: list[TransformConfig] = []


class ModelConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which model: its name, its sizes, and outputs (0: as many as the training target has classes or columns).

    - shape: what each row is read as, such as [8, 8, 1] for an image; left out, the shape that it has in the shards.
    - hidden: units of the dense, or widths of the LSTM layers; channels: of the convolutions; blocks: residual ones of each stage;
      synchronised: whether their batch norm goes over the rows of all workers.
    - layers, width, heads, context, vocabulary, dropout, attention_dropout, rotary, recompute, ngrams, buckets, recall: of a transformer,
      whose outputs are its vocabulary.
    - weights: a file that the first weights come from, by hpcml's names or PyTorch's; modules: which of PyTorch's modules goes where.
    - steps: of a Gibbs chain, or sweeps of a recall; highest: the number that means on; grid, radius, halving, kept: of a map.
    """

    name: Literal[
        "mlp", "softmax", "linear", "logistic", "svm", "lenet", "resnet", "autoencoder", "lstm", "transformer", "rbm", "som", "hopfield"
    ] = "mlp"
    hidden: list[int] = []
    shape: list[int] = []
    channels: list[int] = []
    blocks: int = 1
    synchronised: bool = False
    outputs: int = 0
    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 0
    vocabulary: int = 256
    dropout: float = 0.0
    attention_dropout: float = 0.0
    rotary: bool = False
    recompute: bool = False
    ngrams: list[int] = []
    buckets: int = 16384
    recall: list[int] = []
    steps: int = 1
    highest: float = 1.0
    grid: list[int] = []
    radius: float = 0.0
    halving: int = 20
    kept: float = 0.0
    weights: str = ""
    modules: list[str] | dict[str, str] = []
    dtype: Literal["float32", "float64"] = "float32"


class TrainConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How long, over how many rows, and under which loss; `virtual_workers` 0 is the number of ranks at the first start."""

    epochs: int = 10
    batch: int = 128
    virtual_workers: int = 0
    exact: bool = True
    seed: int = 0
    micro_batch: int = 0
    kernels: Literal["numpy", "fast"] = "numpy"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    graph: bool = False
    loss: Literal[
        "auto", "softmax-cross-entropy", "binary-cross-entropy", "squared-error", "huber", "hinge", "contrastive", "token-cross-entropy"
    ] = "auto"
    label_smoothing: float = 0.0
    class_weights: list[float] = []
    delta: float = 1.0
    margin: float = 1.0


class OptimizerConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The rule that moves the parameters; keys that a rule does not have must be left at their defaults."""

    name: Literal["sgd", "adamw", "lars", "lamb", "adagrad"] = "sgd"
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
    recipe: Literal["none", "large-batch"] = "none"


class SyncConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """When workers agree and by which road; "auto" is the tree where exact, else chosen by size from a measured table.

    Keys that the chosen strategy or outer optimizer does not have must be left at their defaults.
    """

    name: Literal[
        "every-step",
        "local-steps",
        "elastic",
        "gossip",
        "push-sum",
        "delayed",
        "ensemble",
        "parameter-server",
        "downpour",
        "async-easgd",
        "gossip-learning",
        "lbfgs",
    ] = "every-step"
    every: int = 8
    schedule: Literal["fixed", "adaptive", "once"] = "fixed"
    warm_epochs: float = 0.0
    outer: Literal["average", "block-momentum", "slow-momentum", "sgd", "adamw"] = "average"
    outer_rate: float = 1.0
    outer_momentum: float | Literal["auto"] = "auto"
    outer_nesterov: bool = True
    groups: int = 0
    moving: float = 0.9
    losses: list[list[int]] = []
    topology: Literal["ring", "torus", "exponential", "one-peer", "pairs", "complete", "directed-ring", "matrix"] = "ring"
    matrix: list[list[float]] = []
    earlier: bool = False
    spare: int = 0
    slow: list[int] = []
    arrivals: str = ""
    combine: Literal["mean", "vote", "best", "stack"] = "mean"
    memory: int = 10
    reducer: Literal["auto", "tree", "all-reduce", "ring", "halving", "double-tree", "binary-tree", "doubling", "two-level", "lanes"] = (
        "auto"
    )


class ServerConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How far workers may run apart, and where the parameters live, for synchronisers with a server: docs/strategies.md."""

    consistency: Literal["tap", "bap", "ssp", "asp", "bsp"] = "tap"
    bound: int = 3
    threshold: float = 0.01
    regions: int = 0
    inside: int = -1
    ranks: int | Literal["all"] = "all"
    groups: int = 0
    stealing: bool = False
    compensation: float = 0.0
    warm: int = 0
    fetch: int = 1
    push: int = 1
    beta: float = 0.9
    cache: int = 0
    replay: str = ""


class RunConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where and with what: device and road, BLAS threads (0: chosen), steps between checkpoints (0: after each epoch), how many stay."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    device_road: Literal["auto", "direct", "staged", "nccl"] = "auto"
    threads: int = 0
    checkpoint_every: int = 0
    keep: int = 3
    log_every: int = 0
    survive: bool = False


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A whole job."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rate: RateConfig = RateConfig()
    sync: SyncConfig = SyncConfig()
    server: ServerConfig = ServerConfig()
    run: RunConfig = RunConfig()

    def flat(self) -> dict[str, Any]:
        """Return every key as "section.key" with its value."""
        return {f"{section}.{key}": value for section, keys in msgspec.to_builtins(self).items() for key, value in keys.items()}

    def to_toml(self) -> str:
        """Return the whole config as TOML, defaults written out."""
        sections = msgspec.to_builtins(self)
        return "\n".join(f"[{name}]\n" + "".join(f"{k} = {as_toml(v)}\n" for k, v in keys.items()) for name, keys in sections.items())


def as_toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")  # the one character that JSON allows and TOML does not
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {as_toml(item)}" for key, item in value.items()) + " }"
    return repr(value)


def _key(key: str) -> str:
    """Return a key as TOML writes it: in quotes, unless it is a bare word."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else as_toml(key)
