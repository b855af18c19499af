"""What a loss is: a sum over rows with its slope.

Letters: B rows, k outputs. A loss maps a prediction (B, k) and a target (B,) or (B, k) to the sum of the rows' losses, shape (),
and the slope (B, k) of that sum, for which it overwrites the prediction. The mean is taken later, over all workers at once.
A row's weight multiplies its loss and its slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import DataError, ShapeError, TargetError
from hpcml.nn import values
from hpcml.nn.workspace import Workspace

Evaluate = Callable[[Array, Array, Workspace, Array | None], tuple[Array, Array]]
"""(prediction, target, memory, weights) -> (sum of the rows' losses, slope); the slope overwrites the prediction."""


def as_it_is(outputs: np.ndarray) -> np.ndarray:
    """Return the outputs."""
    return outputs


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name: its value and slope, how many rows it counts as hits, and what a model's outputs mean under it."""

    name: str
    evaluate: Evaluate
    hits: Callable[[Array, Array], Array] | None
    """(prediction, target) -> number of rows predicted right; None where that means nothing."""
    integer_target: bool
    options: str = ""
    """What besides the name decides the values, such as "label_smoothing=0.1"; a resumed run must have the same."""
    link: Callable[[np.ndarray], np.ndarray] = as_it_is
    """Outputs (B, k) -> what they mean to a reader, (B, k): probabilities where the loss has them."""
    decide: Callable[[np.ndarray], np.ndarray] | None = None
    """Outputs (B, k) -> the classes (B,) that they stand for; None where there are none."""
    each_position: bool = False
    """Whether a row has a target for each of its positions, whose classes are the last axis of the outputs (B, T, k)."""
    also: Callable[[float], dict[str, float]] | None = None
    """Mean loss -> other metrics that say the same in other units."""
    unlink: Callable[[np.ndarray], np.ndarray] = as_it_is
    """What outputs mean (B, k) -> outputs that mean this, (B, k)."""

    def __call__(
        self, prediction: Array, target: Array, work: Workspace | None = None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Return (sum of the rows' losses, slope), times the rows' weights (B,) if any; the slope overwrites the prediction."""
        _require_arrays(self, prediction, target, weights)
        value, slope = self.evaluate(prediction, target, work or Workspace(), weights)
        if namespace(value) is np and target.dtype.kind == "f" and not math.isfinite(value):
            _require_finite(self, target)
        return value, slope


def _require_arrays(loss: Loss, prediction: Array, target: Array, weights: Array | None) -> None:
    """Raise ShapeError or DataError unless predictions, targets and weights are arrays of as many rows, and no weight below 0."""
    values.array(f"{loss.name}: predictions", prediction)
    values.array(f"{loss.name}: targets", target, "iu" if loss.integer_target else "fiub")
    axes = 3 if loss.each_position else 2
    if prediction.ndim < axes or not target.shape or len(target) != len(prediction):
        expected = "(B, positions, classes)" if loss.each_position else "(B, outputs)"
        text = f"{loss.name} takes predictions {expected} and targets of as many rows"
        raise ShapeError(f"{text}, got shapes {prediction.shape} and {target.shape}")
    if weights is None:
        return
    values.array(f"{loss.name}: weights", weights, "fiu")
    if weights.shape != target.shape[:1]:
        raise ShapeError(f"{loss.name} takes a weight for each row, of shape {target.shape[:1]}; got {weights.shape}")
    if namespace(weights) is np and len(weights) and not weights.min() >= 0:
        row = int((~(weights >= 0)).argmax())
        raise DataError(f"{loss.name}: row {row} weighs {weights[row]:g}; weights are 0 or more")


def _require_finite(loss: Loss, target: np.ndarray) -> None:
    """Raise TargetError with the first row whose target is not finite."""
    wrong = ~np.isfinite(target.reshape(len(target), -1)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise TargetError(f"{loss.name}: the target {target[row]} is not finite; mend the data, or leave the row out", row=row)


def told(**options: object) -> str:
    """Return the options that are not None as text.

    >>> told(label_smoothing=0.1, class_weights=None)
    'label_smoothing=0.1'
    """
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)


def weigh(losses: Array, slope: Array, weights: Array | None) -> Array:
    """Return the sum of the rows' losses, shape (), and overwrite losses and slope with what they are times the rows' weights.

    Args:
        losses: (B, ...) of each row, or of each output.
        slope: (B, ...).
        weights: (B,) or None.
    """
    if weights is not None:
        losses *= weights.reshape(-1, *(1,) * (losses.ndim - 1))
        slope *= weights.reshape(-1, *(1,) * (slope.ndim - 1))
    return losses.sum()
