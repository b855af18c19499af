"""Models by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcml.nn.layers import Dense, Flatten, Layer, ReLU, zeros
from hpcml.nn.model import Model


def mlp(sizes: Sequence[Any], **options: Any) -> Model:
    """Return a multilayer perceptron: dense layers of these sizes with ReLU between them.

    Args:
        sizes: inputs, hidden layers, outputs, such as [64, 128, 10]; inputs may be the shape of a row, such as (8, 8), to be flattened.
        options: seed, dtype, device, as Model takes them.
    """
    shape, first = _inputs(sizes[0])
    layers: list[Layer] = []
    for size in sizes[1:-1]:
        layers += [Dense(size), ReLU()]
    return Model([*first, *layers, Dense(sizes[-1])], shape, **options)


def linear(inputs: int | tuple[int, ...], outputs: int, **options: Any) -> Model:
    """Return one dense layer that starts at zero: linear regression under squared error, softmax regression under cross-entropy."""
    shape, first = _inputs(inputs)
    return Model([*first, Dense(outputs, init=zeros)], shape, **options)


def _inputs(inputs: int | tuple[int, ...]) -> tuple[tuple[int, ...], list[Layer]]:
    shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    return shape, [] if len(shape) == 1 else [Flatten()]
