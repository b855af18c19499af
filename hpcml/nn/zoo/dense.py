"""Models of dense layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hpcml.errors import ShapeError
from hpcml.nn.layers import Dense, Flatten, Layer, ReLU, zeros
from hpcml.nn.model import Model


def mlp(sizes: Sequence[Any], **options: Any) -> Model:
    """Return a multilayer perceptron: dense layers of these sizes with ReLU between them.

    Args:
        sizes: inputs, hidden layers, outputs, such as [64, 128, 10]; inputs may be the shape of a row, such as (8, 8), to be flattened.
        options: seed, dtype, device, as Model takes them.
    """
    _require_two("an mlp", sizes, "[64, 10]")
    shape, first = flat(sizes[0])
    layers: list[Layer] = []
    for size in sizes[1:-1]:
        layers += [Dense(size), ReLU()]
    return Model([*first, *layers, Dense(sizes[-1])], shape, **options)


def linear(inputs: int | tuple[int, ...], outputs: int, **options: Any) -> Model:
    """Return one dense layer that starts at zero: linear regression under squared error, softmax regression under cross-entropy."""
    shape, first = flat(inputs)
    return Model([*first, Dense(outputs, init=zeros)], shape, **options)


def autoencoder(sizes: Sequence[Any], outputs: int = 0, **options: Any) -> Model:
    """Return a network that puts its inputs through a narrow layer and back: dense layers of these sizes, then the same in reverse.

    ReLU stands between them, but not behind the narrow layer, whose numbers may have any sign.

    Args:
        sizes: inputs, hidden layers, the narrow layer, such as [64, 32, 8], which becomes 64, 32, 8, 32, 64.
        outputs: numbers to give back; left out, as many as inputs.
        options: seed, dtype, device, as Model takes them.

    References:
        Hinton and Salakhutdinov, Reducing the dimensionality of data with neural networks, Science, 2006.
    """
    _require_two("an autoencoder", sizes, "[64, 8]")
    shape, first = flat(sizes[0])
    layers: list[Layer] = []
    for size in sizes[1:-1]:
        layers += [Dense(size), ReLU()]
    layers.append(Dense(sizes[-1]))
    for size in reversed(sizes[1:-1]):
        layers += [Dense(size), ReLU()]
    return Model([*first, *layers, Dense(outputs or math.prod(shape))], shape, **options)


def _require_two(what: str, sizes: Sequence[Any], example: str) -> None:
    if not isinstance(sizes, Sequence) or len(sizes) < 2:
        raise ShapeError(f"{what} needs at least two sizes, such as {example}; got {sizes!r}")


def flat(inputs: int | tuple[int, ...]) -> tuple[tuple[int, ...], list[Layer]]:
    """Return the shape of a row and what makes it one axis: Flatten, or nothing."""
    shape = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    return shape, [] if len(shape) == 1 else [Flatten()]
