"""Models of residual blocks with batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hpcml.nn import values
from hpcml.nn.layers import AveragePool, BatchNorm, Conv, Dense, Layer, ReLU, Residual, Sequential
from hpcml.nn.layers.layer import Shape
from hpcml.nn.model import Model
from hpcml.nn.zoo.images import read_as


def resnet(
    shape: Shape,
    channels: Sequence[int],
    blocks: int,
    outputs: int,
    row: Shape | None = None,
    *,
    synchronised: bool = False,
    **options: Any,
) -> Model:
    """Return a residual network: a 3x3 convolution, stages of residual blocks with batch normalisation, a mean over places, a dense layer.

    Args:
        shape: of an image, such as (32, 32, 3).
        channels: of each stage, such as [16, 32, 64]; each stage but the first halves height and width.
        blocks: residual blocks of two convolutions in each stage; 6 blocks a stage of the example have 38 layers with weights.
        outputs: units of the last layer.
        row: shape of the rows as they come, such as (3072,); left out, that of an image.
        synchronised: normalise over the rows of all workers instead of each worker's.
        options: seed, dtype, device, as Model takes them.

    References:
        He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016, section 4.2.
    """
    channels, blocks = values.wholes("a resnet's channels", channels), values.whole("a resnet's number of blocks", blocks)
    layers = [*read_as(shape, row), Conv(channels[0], 3, padding=1, bias=False), BatchNorm(synchronised=synchronised), ReLU()]
    before = channels[0]
    for stage, k in enumerate(channels):
        for block in range(blocks):
            layers += [_block(before, k, 2 if stage and not block else 1, synchronised), ReLU()]
            before = k
    return Model([*layers, AveragePool(), Dense(outputs)], row or shape, **options)


def _block(before: int, k: int, stride: int, synchronised: bool) -> Layer:
    """Return two convolutions around which the input goes on, through a 1x1 convolution where its shape must change."""
    norm = partial(BatchNorm, synchronised=synchronised)
    bent = (Conv(k, 3, stride=stride, padding=1, bias=False), norm(), ReLU(), Conv(k, 3, padding=1, bias=False), norm())
    same = stride == 1 and before == k
    return Residual(*bent, projection=None if same else Sequential(Conv(k, 1, stride=stride, bias=False), norm()))
