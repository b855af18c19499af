"""Models of convolutions, for images (height, width, channels) and sequences (length, channels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcml.nn import values
from hpcml.nn.layers import Bias, Conv, Dense, Flatten, Layer, MaxPool, ReLU, Reshape
from hpcml.nn.layers.layer import Shape
from hpcml.nn.model import Model


def lenet(shape: Shape, channels: Sequence[int], hidden: Sequence[int], outputs: int, row: Shape | None = None, **options: Any) -> Model:
    """Return a convolutional network: for each number of channels a 3x3 convolution and a halving, then dense layers.

    The bias and ReLU of a convolution stand behind the max-pooling that follows it, where the maximum is the same and a quarter of
    the numbers is left.

    Args:
        shape: of an image, such as (32, 32, 3).
        channels: of each convolution, such as [32, 64, 128]; each halves height and width.
        hidden: units of each dense layer but the last.
        outputs: units of the last.
        row: shape of the rows as they come, such as (3072,); left out, that of an image.
        options: seed, dtype, device, as Model takes them.

    References:
        LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, Proceedings of the IEEE, 1998.
    """
    layers = read_as(shape, row)
    for k in values.wholes("a lenet's channels", channels, fewest=0):
        layers += [Conv(k, 3, padding=1, bias=False), MaxPool(2), Bias(), ReLU()]
    layers.append(Flatten())
    for size in values.wholes("a lenet's hidden layers", hidden, fewest=0):
        layers += [Dense(size), ReLU()]
    return Model([*layers, Dense(outputs)], row or shape, **options)


def read_as(shape: Shape, row: Shape | None) -> list[Layer]:
    """Return what makes rows of shape `row` ones of this shape: Reshape, or nothing where they are so already."""
    return [] if row is None or tuple(row) == tuple(shape) else [Reshape(*shape)]
