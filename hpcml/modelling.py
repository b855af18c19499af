"""Models and losses by name: what [model] and the loss in [train] mean."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import msgspec
import numpy as np

from hpcml.comm.communicator import Communicator, everywhere
from hpcml.config import Config
from hpcml.config.keys import ModelConfig
from hpcml.config.limits import LOSS_KEYS, MODEL_KEYS, OWN_RULE
from hpcml.data import ShardedDataset, index_shards
from hpcml.data.variable import Packing
from hpcml.errors import ConfigError, DataError, ShapeError
from hpcml.nn import (
    BFLOAT16,
    FLOAT16,
    LOSSES,
    Loss,
    Model,
    binary_cross_entropy,
    contrastive,
    cross_entropy,
    hinge,
    huber,
    squared_error,
    token_cross_entropy,
)
from hpcml.nn.model import load_fused
from hpcml.nn.zoo import autoencoder, hopfield, lenet, linear, lstm, mlp, rbm, resnet, som, transformer
from hpcml.train.identity import require_whole_targets

MOST_CLASSES = 1 << 16
"""Classes that are believed whatever the number of rows."""

TARGETS_AT_ONCE = 1 << 16
"""Rows of the target read at once while the classes are counted."""

Shape = tuple[int, ...]

USUAL_LOSS = {
    "linear": "squared-error",
    **dict.fromkeys(("autoencoder", *OWN_RULE), "squared-error"),
    "logistic": "binary-cross-entropy",
    "svm": "hinge",
    "transformer": "token-cross-entropy",
}
"""The loss that "auto" stands for where the model itself says it."""

PRECISIONS = {precision.name: precision for precision in (BFLOAT16, FLOAT16)}

OWN_OUTPUTS = ("transformer", *OWN_RULE)
"""Models that say themselves how many outputs they have: the vocabulary, or what a row has."""

LOSS_MAKERS: dict[str, Callable[..., Loss]] = {
    "softmax-cross-entropy": cross_entropy,
    "binary-cross-entropy": binary_cross_entropy,
    "squared-error": lambda: squared_error,
    "huber": huber,
    "hinge": hinge,
    "contrastive": contrastive,
    "token-cross-entropy": lambda: token_cross_entropy,
}


def resolve_outputs(config: Config, data: ShardedDataset, comm: Communicator) -> Config:
    """Return the config with model.outputs filled in: one more than the largest class, or the target's columns."""
    if config.model.outputs or config.model.name in OWN_OUTPUTS:
        return config
    outputs = np.zeros(1, np.int64)
    with comm.together():
        require_whole_targets(LOSSES[config.train.loss], data)
        if comm.rank == 0:
            outputs[0] = count_classes(config, data) if LOSSES[config.train.loss].integer_target else _columns(data)
    comm.broadcast(outputs)
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, outputs=int(outputs[0])))


def _columns(data: ShardedDataset) -> int:
    """Return how many numbers a row's target has; 1 without a target, which the trainer refuses by name."""
    return math.prod(data.y.shape) if data.y is not None else 1


def count_classes(config: Config, data: ShardedDataset) -> int:
    """Return one more than the largest class in the training target, read on this rank alone.

    Raises:
        DataError: if a class is negative.
    """
    with ShardedDataset(
        index_shards([shard.path for shard in data.index.shards], config.data.target, None, packing=Packing.from_keys(config.data))
    ) as targets:
        largest = 0
        for first in range(0, targets.rows, TARGETS_AT_ONCE):
            block = np.zeros((min(TARGETS_AT_ONCE, targets.rows - first), *targets.x.shape), np.int64)
            targets.read(first, first + len(block), block)
            if block.min() < 0:
                row = first + int(block.reshape(len(block), -1).min(axis=1).argmin())
                path, inside = targets.locate(row)
                raise DataError(f"{path}: row {inside} of {config.data.target!r} is the class {block.min()}; classes count from 0")
            largest = max(largest, int(block.max()))
            if largest >= max(targets.rows, MOST_CLASSES):
                path, inside = targets.locate(first + int(block.reshape(len(block), -1).max(axis=1).argmax()))
                raise DataError(
                    f"{path}: row {inside} of {config.data.target!r} is the class {largest}, more than {targets.rows} rows can tell apart;"
                    ' set model.outputs if that is meant, train.loss = "squared-error" for numbers, or mend the data'
                )
    return largest + 1


def resolve_loss(config: Config, data: ShardedDataset) -> Config:
    """Return the config with train.loss filled in: what the model stands for, else cross-entropy for whole-number targets.

    Raises:
        ConfigError: on every rank, for a key that means nothing to the loss that "auto" stands for.
    """
    if config.train.loss != "auto":
        return config
    whole = data.y is not None and np.dtype(data.y.dtype).kind in "iub" and not data.y.shape
    name: Any = USUAL_LOSS.get(config.model.name, "softmax-cross-entropy" if whole else "squared-error")
    for key in {key for keys in LOSS_KEYS.values() for key in keys} - set(LOSS_KEYS[name]):
        if getattr(config.train, key) != getattr(type(config.train)(), key):
            raise everywhere(ConfigError(f'train.{key} means nothing to "{name}", which train.loss = "auto" stands for here; leave it out'))
    return msgspec.structs.replace(config, train=msgspec.structs.replace(config.train, loss=name))


def build_loss(config: Config) -> Loss:
    """Return the loss that a resolved config names, with its options.

    Raises:
        ConfigError: if there is not one weight for each class.
    """
    name = config.train.loss
    keys = {key: getattr(config.train, key) for key in LOSS_KEYS[name]}
    weights = keys.pop("class_weights", [])
    if weights:
        classes = 2 if name == "binary-cross-entropy" else config.model.outputs
        if len(weights) != classes:
            raise ConfigError(f"train.class_weights has {len(weights)} numbers for {classes} classes; give one for each")
        keys["class_weights"] = tuple(weights)
    return LOSS_MAKERS[name](**keys)


def compile_kernels(config: Config, comm: Communicator, told: Callable[[str, int, int], None] | None = None) -> None:
    """Let one rank a node compile fused steps, where the config asks for them, before the others load what it kept.

    Args:
        config: equal on all ranks.
        comm: all ranks, which wait here.
        told: called each second with (what, 0, 1) while this rank compiles or waits for one that does, and with (what, 1, 1) at the end;
            left out, nobody is told.

    Raises:
        ConfigError: on every rank, if a node lacks numba.
    """
    if config.train.kernels != "fast":
        return
    inside, across = comm.by_node()
    inside.patient = True  # the others sleep: an MPI library would wait by spinning, and take what the compiler needs
    with _telling("fused steps compiled:", told) if told else nullcontext(), comm.together():
        try:
            if inside.rank == 0:
                load_fused()
        finally:
            inside.barrier()
    inside.free()
    across.free()


@contextmanager
def _telling(what: str, told: Callable[[str, int, int], None]) -> Iterator[None]:
    """Tell every second that a block is not done yet, and at last that it is, unless it was done within one."""
    done, long = threading.Event(), False

    def tell() -> None:
        nonlocal long
        while not done.wait(1.0):
            long = True
            told(what, 0, 1)

    thread = threading.Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if long:
        told(what, 1, 1)


def require_shapes(config: Config, row: Shape) -> None:
    """Raise unless the model can be made for rows of this shape, before any row is read: outputs that the rows will tell count as one.

    Raises:
        ShapeError: if it cannot; the message draws the layers with their shapes.
    """
    if not config.model.outputs and config.model.name not in OWN_OUTPUTS:
        config = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, outputs=1))
    _make(config, row, filled=False)


def _make(config: Config, row: Shape, **options: Any) -> Model:
    """Return the model that a config names; what does not fit is said with its keys."""
    keys = config.model
    try:
        return MODELS[keys.name](keys, row, seed=config.train.seed, dtype=keys.dtype, **options)
    except ShapeError as error:
        first, *drawn = str(error).splitlines()
        hint = "; set model.shape, [height, width, channels] of an image or [steps, numbers] of a sequence"
        hint = hint if "shape" in MODEL_KEYS[keys.name] and not keys.shape else ""
        text = f'model.name = "{keys.name}" cannot be made for rows of shape {row}: {first}{hint}'
        raise ShapeError("\n".join([text, *drawn])) from None


def build_model(config: Config, row: Shape) -> Model:
    """Return the model for rows of this shape, in host memory; model.outputs must be filled in.

    Raises:
        ShapeError: if the model cannot take such rows.
        ConfigError: if train.kernels asks for a package that is not installed.
    """
    model = _make(config, row)
    if config.train.kernels == "fast":
        model.fuse()
    if config.train.precision != "float32":
        model.round(PRECISIONS[config.train.precision])
    return model


def _mlp(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return mlp([row[0] if len(row) == 1 else row, *keys.hidden, keys.outputs], **options)


def _linear(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return linear(row[0] if len(row) == 1 else row, keys.outputs, **options)


def _autoencoder(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return autoencoder([row, *keys.hidden], keys.outputs, **options)


def _lenet(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return lenet(tuple(keys.shape) or row, keys.channels, keys.hidden, keys.outputs, row, **options)


def _resnet(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return resnet(tuple(keys.shape) or row, keys.channels, keys.blocks, keys.outputs, row, synchronised=keys.synchronised, **options)


def _lstm(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return lstm(tuple(keys.shape) or row, keys.hidden, keys.outputs, row, **options)


def _rbm(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return rbm(row, keys.hidden[0], keys.steps, keys.highest, **options)


def _som(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return som(row, keys.grid, keys.radius, keys.halving, keys.kept, **options)


def _hopfield(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    return hopfield(row, keys.steps, keys.highest, **options)


def _transformer(keys: ModelConfig, row: Shape, **options: Any) -> Model:
    if len(row) != 1:
        raise ShapeError(f"a transformer takes rows of tokens, one axis; data.features has rows of shape {row}")
    return transformer(row[0], **{key: getattr(keys, key) for key in MODEL_KEYS["transformer"]}, **options)


MODELS: dict[str, Callable[..., Model]] = {
    "mlp": _mlp,
    **dict.fromkeys(("softmax", "linear", "logistic", "svm"), _linear),
    "autoencoder": _autoencoder,
    "lenet": _lenet,
    "resnet": _resnet,
    "lstm": _lstm,
    "transformer": _transformer,
    "rbm": _rbm,
    "som": _som,
    "hopfield": _hopfield,
}
"""Name -> (keys of [model], shape of a row, seed and dtype) -> model."""
