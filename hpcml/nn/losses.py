"""Losses, each a sum over rows with its slope.

Letters: B rows, k outputs. A loss maps a prediction (B, k) and a target (B,) or (B, k) to the sum of the rows' losses, shape (),
and the slope (B, k) of that sum, for which it overwrites the prediction. The mean is taken later, over all workers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import DataError, ShapeError
from hpcml.nn.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name: its value and slope, and how many rows it counts as hits."""

    name: str
    evaluate: Callable[[Array, Array, Workspace], tuple[Array, Array]]
    hits: Callable[[Array, Array], Array] | None
    """(prediction, target) -> number of rows predicted right; None where that means nothing."""
    integer_target: bool

    def __call__(self, prediction: Array, target: Array, work: Workspace | None = None) -> tuple[Array, Array]:
        """Return (sum of the rows' losses, slope); the slope overwrites the prediction."""
        return self.evaluate(prediction, target, work or Workspace())


def _cross_entropy(prediction: Array, target: Array, work: Workspace) -> tuple[Array, Array]:
    xp = namespace(prediction)
    rows, classes = prediction.shape
    _require_classes(target, rows, classes)
    flat = prediction.reshape(-1)
    where = _positions(target, classes, work.take("where", (rows,), prediction, np.int64))
    picked, column = work.take("picked", (rows,), prediction), work.take("column", (rows, 1), prediction)
    xp.max(prediction, axis=1, keepdims=True, out=column)
    prediction -= column
    _pick(flat, where, picked)
    chosen = picked.sum()
    xp.exp(prediction, out=prediction)
    xp.sum(prediction, axis=1, keepdims=True, out=column)
    prediction /= column
    xp.log(column, out=column)
    _pick(flat, where, picked)
    picked -= 1
    flat[where] = picked
    return column.sum() - chosen, prediction


def _positions(target: Array, classes: int, out: Array) -> Array:
    """Overwrite out (B,) with the place of each row's class in the flat prediction; int64, since small dtypes would wrap around."""
    out.fill(classes)
    out[:1] = 0
    namespace(out).cumsum(out, out=out)
    out += target.astype(out.dtype, copy=False)
    return out


def _pick(flat: Array, where: Array, out: Array) -> None:
    """Overwrite out with flat[where]; numpy would make a copy of out first if it had to raise for places outside."""
    if namespace(flat) is np:
        flat.take(where, out=out, mode="clip")
    else:
        flat.take(where, out=out)


def _require_classes(target: Array, rows: int, classes: int) -> None:
    if target.shape != (rows,) or target.dtype.kind not in "iu":
        raise ShapeError(f"cross-entropy takes integer classes of shape ({rows},), got shape {target.shape} and dtype {target.dtype}")
    if rows and (int(target.min()) < 0 or int(target.max()) >= classes):
        wrong = [int(c) for c in target if not 0 <= int(c) < classes][:5]
        raise DataError(f"targets {wrong} are outside the classes 0 to {classes - 1}; give the model more outputs or mend the data")


def _count_hits(prediction: Array, target: Array) -> Array:
    return (prediction.argmax(axis=1) == target).sum()


def _half_square(prediction: Array, target: Array, work: Workspace) -> tuple[Array, Array]:
    xp = namespace(prediction)
    columns = target[:, None] if target.ndim == 1 else target
    if columns.shape != prediction.shape:
        raise ShapeError(f"squared error takes targets of shape {prediction.shape}, got {target.shape}")
    xp.subtract(prediction, columns, out=prediction)
    square = work.take("square", prediction.shape, prediction)
    xp.multiply(prediction, prediction, out=square)
    return square.sum() / 2, prediction


softmax_cross_entropy = Loss("softmax-cross-entropy", _cross_entropy, _count_hits, integer_target=True)
"""Minus the logarithm of the probability that softmax gives the target class; targets (B,) integers from 0 to k - 1."""

squared_error = Loss("squared-error", _half_square, None, integer_target=False)
"""Half the squared distance between prediction and target; targets (B,) or (B, k) numbers."""

LOSSES = {loss.name: loss for loss in (softmax_cross_entropy, squared_error)}
