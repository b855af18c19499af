"""The loss of language models: what the next token costs.

Letters: B rows, T positions, k tokens of the vocabulary.
"""

from __future__ import annotations

import math

from hpcml.arrays import Array
from hpcml.errors import ShapeError, TargetError
from hpcml.nn.losses.classes import softmax_cross_entropy
from hpcml.nn.losses.loss import Loss
from hpcml.nn.workspace import Workspace


def _mean_cross_entropy(prediction: Array, target: Array, work: Workspace, weights: Array | None) -> tuple[Array, Array]:
    rows, places, k = prediction.shape
    share = work.take("share", (rows, places), prediction)
    share[...] = 1 / places if weights is None else weights[:, None] / places
    flat = prediction.reshape(rows * places, k)
    try:
        value, _ = softmax_cross_entropy.evaluate(flat, _next(prediction, target).reshape(-1), work, share.reshape(-1))
    except TargetError as error:
        raise TargetError(str(error), row=error.row // places) from None
    return value, prediction


def _next(prediction: Array, target: Array) -> Array:
    """Return the token that each position is to predict, (B, T)."""
    rows, places = prediction.shape[:2]
    if target.shape not in ((rows, places), (rows, places + 1)):
        raise ShapeError(f"token cross-entropy takes targets ({rows}, {places}) or whole rows ({rows}, {places + 1}), got {target.shape}")
    return target[:, -places:]


def _share_of_hits(prediction: Array, target: Array) -> Array:
    return (prediction.argmax(axis=-1) == _next(prediction, target)).sum() / prediction.shape[1]


def _also(loss: float) -> dict[str, float]:
    """Return what a mean loss in nats a token means."""
    return {"perplexity": math.exp(min(loss, 700.0)), "bits_per_token": loss / math.log(2)}


token_cross_entropy = Loss("token-cross-entropy", _mean_cross_entropy, _share_of_hits, integer_target=True, each_position=True, also=_also)
"""The mean over a row's positions of minus the logarithm of the probability of the token that comes next, in nats.

Targets are (B, T) whole numbers, or rows of T + 1 tokens of which the first is predicted by nobody: then features and target of a
job may be the same field. Where tokens are bytes, bits_per_token are bits per byte.
"""
