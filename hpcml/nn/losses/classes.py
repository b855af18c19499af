"""Losses between classes: cross-entropies and hinges.

Letters: B rows, k outputs; a target (B,) holds the classes, whole numbers from 0 to k - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from hpcml.arrays import Array, fused, namespace
from hpcml.errors import ShapeError, TargetError
from hpcml.nn import values
from hpcml.nn.losses.loss import Loss, told, weigh
from hpcml.nn.workspace import Workspace


def cross_entropy(label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> Loss:
    """Return minus the logarithm of the probability that softmax gives the target class.

    Args:
        label_smoothing: s: the target class counts 1 - s + s / k, each other class s / k.
        class_weights: (k,) by which each class's terms count; the mean still divides by the rows, or by their own weights.

    References:
        Szegedy et al., Rethinking the Inception architecture for computer vision, CVPR 2016, for the smoothing.
    """
    values.part("label_smoothing", label_smoothing)
    evaluate = _cross_entropy
    if label_smoothing or class_weights is not None:
        weights = None if class_weights is None else values.weights("class_weights", class_weights)
        evaluate = partial(_uneven_cross_entropy, smoothing=label_smoothing, classes=weights)
    options = told(label_smoothing=label_smoothing or None, class_weights=class_weights)
    return Loss("softmax-cross-entropy", evaluate, count_hits, True, options, softmax, most_likely, unlink=logarithm)


def hinge(margin: float = 1.0) -> Loss:
    """Return how far the target class falls short of a margin over the others: the loss of a support vector machine.

    With one output, classes are 0 and 1 and the loss is max(0, margin - x) or max(0, margin + x); with k outputs it is the sum
    over the other classes j of max(0, margin + x_j - x_target), divided by k.

    References:
        Weston and Watkins, Support vector machines for multi-class pattern recognition, ESANN 1999.
    """
    values.weight("hinge's margin", margin)
    options = told(margin=None if margin == 1 else margin)
    return Loss("hinge", partial(_hinge, margin=margin), count_hits, True, options, decide=most_likely)


def softmax(outputs: np.ndarray) -> np.ndarray:
    """Return the probabilities (B, ..., k) whose logarithms the outputs are, up to a number for each k of them."""
    raised = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Return outputs (B, ..., k) whose softmax are these probabilities; those of 0 are taken for the smallest number above it."""
    return np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))


def most_likely(outputs: Array) -> Array:
    """Return the class (B, ...) of the largest output; of a single output, 1 where it is positive and 0 elsewhere."""
    return (outputs[..., 0] > 0).astype(np.int64) if outputs.shape[-1] == 1 else outputs.argmax(axis=-1)


def count_hits(prediction: Array, target: Array) -> Array:
    """Return how many rows have their target as most likely class."""
    return (most_likely(prediction) == target).sum()


def _cross_entropy(prediction: Array, target: Array, work: Workspace, weights: Array | None) -> tuple[Array, Array]:
    xp = namespace(prediction)
    rows, classes = _rows_and_outputs("cross-entropy", prediction)
    by_kernel = fused.fits(prediction)
    require_classes("cross-entropy", target, rows, classes, read=not (by_kernel and work.late))
    if by_kernel:
        return _by_kernel(prediction, target, work, weights)
    flat = prediction.reshape(-1)
    where = _positions(target, classes, work.take("where", (rows,), prediction, np.int64))
    picked, column = work.take("picked", (rows,), prediction), work.take("column", (rows, 1), prediction)
    xp.max(prediction, axis=1, keepdims=True, out=column)
    prediction -= column
    _pick(flat, where, picked)
    chosen = picked.sum() if weights is None else picked @ weights
    xp.exp(prediction, out=prediction)
    xp.sum(prediction, axis=1, keepdims=True, out=column)
    prediction /= column
    xp.log(column, out=column)
    _pick(flat, where, picked)
    picked -= 1
    flat[where] = picked
    if weights is None:
        return column.sum() - chosen, prediction
    prediction *= weights[:, None]
    return column[:, 0] @ weights - chosen, prediction


def _by_kernel(prediction: Array, target: Array, work: Workspace, weights: Array | None) -> tuple[Array, Array]:
    losses, places = work.take("losses", target.shape, prediction), work.take("places", target.shape, prediction, np.int64)
    each = work.take("each", target.shape, prediction)
    each[...] = 1 if weights is None else weights
    places[...] = target
    fused.cross_entropy(prediction, places, each, losses)
    return losses.sum(), prediction


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


def _rows_and_outputs(loss: str, prediction: Array) -> tuple[int, int]:
    """Return (B, k), or raise ShapeError if the prediction has other axes."""
    if prediction.ndim != 2:
        text = f"{loss} takes predictions (B, classes), got shape {prediction.shape}"
        raise ShapeError(f"{text}; put Flatten() and Dense(...) last, or take token-cross-entropy for a class a position")
    return prediction.shape[0], prediction.shape[1]


def require_classes(loss: str, target: Array, rows: int, classes: int, *, read: bool = True) -> None:
    """Raise ShapeError or TargetError unless target holds a class from 0 to classes - 1 for each row, which is read if `read`."""
    if target.shape != (rows,) or target.dtype.kind not in "iu":
        raise ShapeError(f"{loss} takes integer classes of shape ({rows},), got shape {target.shape} and dtype {target.dtype}")
    if read and rows and (int(target.min()) < 0 or int(target.max()) >= classes):
        wrong = [k for k, c in enumerate(target.tolist()) if not 0 <= c < classes][:5]
        named = [int(target[k]) for k in wrong]
        hint = "give the model more outputs or mend the data"
        raise TargetError(f"targets {named} are outside the classes 0 to {classes - 1}; {hint}", row=wrong[0])


def _uneven_cross_entropy(
    prediction: Array, target: Array, work: Workspace, weights: Array | None, *, smoothing: float, classes: tuple[float, ...] | None
) -> tuple[Array, Array]:
    """Return minus the sum of q_j log p_j over the classes, q_j = w_j ((1 - s) [j is the target] + s / k), and its slope p sum(q) - q."""
    xp = namespace(prediction)
    rows, k = _rows_and_outputs("cross-entropy", prediction)
    require_classes("cross-entropy", target, rows, k)
    if classes is not None and len(classes) != k:
        raise ShapeError(f"train.class_weights has {len(classes)} numbers, the model {k} outputs; give one for each class")
    each = work.take("each", (k,), prediction)
    each[...] = xp.asarray(classes, prediction.dtype) if classes else 1
    flat, where = prediction.reshape(-1), _positions(target, k, work.take("where", (rows,), prediction, np.int64))
    mine, total, picked = (work.take(name, (rows,), prediction) for name in ("mine", "total", "picked"))
    _pick(each, target, mine)
    mine *= 1 - smoothing
    xp.add(mine, float(each.sum()) * smoothing / k, out=total)
    each *= smoothing / k
    column = work.take("column", (rows, 1), prediction)
    xp.max(prediction, axis=1, keepdims=True, out=column)
    prediction -= column
    _pick(flat, where, picked)
    picked *= mine
    losses = work.take("losses", (rows,), prediction)
    xp.matmul(prediction, each, out=losses)
    losses += picked
    xp.exp(prediction, out=prediction)
    xp.sum(prediction, axis=1, keepdims=True, out=column)
    prediction /= column
    xp.log(column, out=column)
    xp.multiply(column[:, 0], total, out=picked)
    xp.subtract(picked, losses, out=losses)
    prediction *= total[:, None]
    prediction -= each
    _pick(flat, where, picked)
    picked -= mine
    flat[where] = picked
    return weigh(losses, prediction, weights), prediction


def _hinge(prediction: Array, target: Array, work: Workspace, weights: Array | None, *, margin: float) -> tuple[Array, Array]:
    xp = namespace(prediction)
    rows, k = _rows_and_outputs("hinge", prediction)
    require_classes("hinge", target, rows, max(k, 2))
    if k == 1:
        sign = work.take("sign", (rows, 1), prediction)
        xp.multiply(target[:, None], 2, out=sign, casting="unsafe")
        sign -= 1
        prediction *= sign
        short = work.take("short", (rows, 1), prediction)
        xp.subtract(margin, prediction, out=short)
        xp.maximum(short, 0, out=short)
        xp.negative(sign, out=prediction)
        prediction *= xp.greater(short, 0, out=work.take("within", (rows, 1), prediction, bool))
        return weigh(short, prediction, weights), prediction
    flat, where = prediction.reshape(-1), _positions(target, k, work.take("where", (rows,), prediction, np.int64))
    own = work.take("own", (rows, 1), prediction)
    _pick(flat, where, own[:, 0])
    prediction -= own
    prediction += margin
    flat[where] = 0
    xp.maximum(prediction, 0, out=prediction)
    xp.divide(prediction, k, out=prediction)
    losses = work.take("losses", prediction.shape, prediction)
    losses[...] = prediction
    xp.multiply(xp.greater(losses, 0, out=work.take("within", losses.shape, prediction, bool)), 1 / k, out=prediction, casting="unsafe")
    xp.sum(prediction, axis=1, keepdims=True, out=own)
    xp.negative(own, out=own)
    flat[where] = own[:, 0]
    return weigh(losses, prediction, weights), prediction


softmax_cross_entropy = cross_entropy()
"""Minus the logarithm of the probability that softmax gives the target class; targets (B,) integers from 0 to k - 1."""
