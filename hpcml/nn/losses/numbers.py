"""Losses between numbers.

Letters: B rows, k outputs; targets are (B,) or (B, k).
"""

from __future__ import annotations

from functools import partial

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.losses.loss import Loss, told, weigh
from hpcml.nn.workspace import Workspace


def as_columns(loss: str, target: Array, prediction: Array) -> Array:
    """Return the target in the prediction's shape (B, k).

    Raises:
        ShapeError: if it has another.
    """
    columns = target[:, None] if target.ndim == 1 else target
    if columns.shape != prediction.shape:
        raise ShapeError(f"{loss} takes targets of shape {prediction.shape}, got {target.shape}")
    return columns


def _half_square(prediction: Array, target: Array, work: Workspace, weights: Array | None) -> tuple[Array, Array]:
    xp = namespace(prediction)
    xp.subtract(prediction, as_columns("squared error", target, prediction), out=prediction)
    square = work.take("square", prediction.shape, prediction)
    xp.multiply(prediction, prediction, out=square)
    return weigh(square, prediction, weights) / 2, prediction


def huber(delta: float = 1.0) -> Loss:
    """Return half the square of a difference up to `delta`, from there on a straight line of slope `delta`, summed over the outputs.

    References:
        Huber, Robust estimation of a location parameter, Annals of Mathematical Statistics, 1964.
    """
    values.positive("huber's delta", delta)
    return Loss("huber", partial(_huber, delta=delta), None, False, told(delta=None if delta == 1 else delta))


def _huber(prediction: Array, target: Array, work: Workspace, weights: Array | None, *, delta: float) -> tuple[Array, Array]:
    """Return the sum of s (e - s / 2) for the difference e and its slope s, which is e cut off at delta."""
    xp = namespace(prediction)
    xp.subtract(prediction, as_columns("Huber loss", target, prediction), out=prediction)
    losses, slope = work.take("losses", prediction.shape, prediction), work.take("slope", prediction.shape, prediction)
    xp.clip(prediction, -delta, delta, out=slope)
    xp.multiply(slope, -0.5, out=losses)
    losses += prediction
    losses *= slope
    prediction[...] = slope
    return weigh(losses, prediction, weights), prediction


squared_error = Loss("squared-error", _half_square, None, integer_target=False)
"""Half the squared distance between prediction and target; targets (B,) or (B, k) numbers."""
