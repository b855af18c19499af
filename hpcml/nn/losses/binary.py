"""Cross-entropy between two classes, for each output on its own.

Letters: B rows, k outputs, each the logarithm of the odds that its target is 1.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import TargetError
from hpcml.nn import values
from hpcml.nn.losses.loss import Loss, told, weigh
from hpcml.nn.losses.numbers import as_columns
from hpcml.nn.workspace import Workspace


def binary_cross_entropy(label_smoothing: float = 0.0, class_weights: tuple[float, float] = (1.0, 1.0)) -> Loss:
    """Return minus the logarithm of the probability that the logistic function gives each target, summed over the outputs.

    Args:
        label_smoothing: s: a target t becomes (1 - s) t + s / 2.
        class_weights: by which targets 0 and targets 1 count; the mean still divides by the rows, or by their own weights.
    """
    values.part("label_smoothing", label_smoothing)
    zero, one = values.weights("class_weights", class_weights, 2)
    options = told(label_smoothing=label_smoothing or None, class_weights=None if class_weights == (1, 1) else tuple(class_weights))
    evaluate = partial(_binary, smoothing=label_smoothing, zero=zero, one=one)
    return Loss("binary-cross-entropy", evaluate, _count_hits, False, options, logistic, _decide, unlink=log_odds)


def logistic(outputs: np.ndarray) -> np.ndarray:
    """Return the probabilities (B, k) of targets 1."""
    return np.exp(-np.logaddexp(0, -outputs))


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return outputs (B, k) whose logistic function are these probabilities; 0 and 1 are taken for the numbers next to them."""
    least = np.finfo(probabilities.dtype).eps
    inside = np.clip(probabilities, least, 1 - least)
    return np.log(inside) - np.log1p(-inside)


def _binary(
    prediction: Array, target: Array, work: Workspace, weights: Array | None, *, smoothing: float, zero: float, one: float
) -> tuple[Array, Array]:
    """Return the sum of one t softplus(-x) + zero (1 - t) softplus(x), and its slope."""
    xp = namespace(prediction)
    columns = as_columns("binary cross-entropy", target, prediction)
    _require_probabilities(columns)
    ones, both, losses = (work.take(name, prediction.shape, prediction) for name in ("ones", "both", "losses"))
    xp.multiply(columns, one * (1 - smoothing), out=ones)
    ones += one * smoothing / 2  # one t: softplus(-x) = softplus(x) - x
    xp.multiply(columns, -zero * (1 - smoothing), out=both)
    both += zero * (1 - smoothing / 2)
    both += ones
    xp.logaddexp(0, prediction, out=losses)
    slope = work.take("slope", prediction.shape, prediction)
    xp.subtract(prediction, losses, out=slope)
    xp.exp(slope, out=slope)
    slope *= both
    slope -= ones
    losses *= both
    prediction *= ones
    losses -= prediction
    prediction[...] = slope
    return weigh(losses, prediction, weights), prediction


def _require_probabilities(columns: Array) -> None:
    if columns.size and not (float(columns.min()) >= 0 and float(columns.max()) <= 1):
        row = int((~((columns >= 0) & (columns <= 1))).any(axis=1).argmax())
        wrong = float(columns[row].min()) if not float(columns[row].min()) >= 0 else float(columns[row].max())
        text = f"the target {wrong:g} is not between 0 and 1; mend the data, or take softmax-cross-entropy for more than two classes"
        raise TargetError(text, row=row)


def _decide(outputs: np.ndarray) -> np.ndarray:
    """Return the class (B,) of a single output, or the classes (B, k) of several: 1 where an output is positive."""
    classes = (outputs > 0).astype(np.int64)
    return classes[:, 0] if classes.shape[1] == 1 else classes


def _count_hits(prediction: Array, target: Array) -> Array:
    columns = target[:, None] if target.ndim == 1 else target
    return ((prediction > 0) == (columns > 0.5)).all(axis=1).sum()
