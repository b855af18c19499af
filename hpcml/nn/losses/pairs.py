"""The loss of pairs: alike ones shall lie together, others apart.

Letters: B pairs, m numbers of each of the two; a prediction is (B, 2, m), or any shape of a row that reads as that.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.losses.classes import require_classes
from hpcml.nn.losses.loss import Loss, told, weigh
from hpcml.nn.workspace import Workspace


def contrastive(margin: float = 1.0) -> Loss:
    """Return half the squared distance of a pair that is alike, target 1, and half the squared lack of `margin` of one that is not, 0.

    References:
        Hadsell, Chopra and LeCun, Dimensionality reduction by learning an invariant mapping, CVPR 2006.
    """
    values.weight("contrastive's margin", margin)
    return Loss("contrastive", partial(_contrastive, margin=margin), None, True, told(margin=None if margin == 1 else margin))


def _contrastive(prediction: Array, target: Array, work: Workspace, weights: Array | None, *, margin: float) -> tuple[Array, Array]:
    xp = namespace(prediction)
    rows = len(prediction)
    numbers = math.prod(prediction.shape[1:])
    if numbers % 2:
        raise ShapeError(f"contrastive takes two vectors a row, got rows of shape {prediction.shape[1:]}; their numbers must be even")
    require_classes("contrastive", target, rows, 2)
    pairs = prediction.reshape(rows, 2, numbers // 2)
    apart, square = work.take("apart", pairs[:, 0].shape, prediction), work.take("square", pairs[:, 0].shape, prediction)
    distance, losses = work.take("distance", (rows,), prediction), work.take("losses", (rows,), prediction)
    xp.subtract(pairs[:, 0], pairs[:, 1], out=apart)
    xp.multiply(apart, apart, out=square)
    xp.sum(square, axis=1, out=distance)
    xp.sqrt(distance, out=distance)
    alike = work.take("alike", (rows,), prediction, bool)
    xp.not_equal(target, 0, out=alike)
    lack = work.take("lack", (rows,), prediction)
    xp.subtract(margin, distance, out=lack)
    xp.maximum(lack, 0, out=lack)
    lack *= xp.equal(target, 0, out=work.take("different", (rows,), prediction, bool))
    xp.multiply(distance, alike, out=losses)
    losses += lack
    losses *= losses
    losses *= 0.5
    # The slope of the lack is -1 along the difference, a vector of length 1; two equal points have no direction to part in.
    xp.maximum(distance, np.finfo(distance.dtype).tiny, out=distance)
    lack /= distance
    xp.subtract(alike, lack, out=lack)
    xp.multiply(apart, lack[:, None], out=pairs[:, 0])
    xp.negative(pairs[:, 0], out=pairs[:, 1])
    return weigh(losses, prediction, weights), prediction
