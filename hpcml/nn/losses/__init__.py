"""Losses, each a sum over rows with its slope."""

from hpcml.nn.losses.binary import binary_cross_entropy
from hpcml.nn.losses.classes import cross_entropy, hinge, softmax_cross_entropy
from hpcml.nn.losses.loss import Loss
from hpcml.nn.losses.numbers import huber, squared_error
from hpcml.nn.losses.pairs import contrastive
from hpcml.nn.losses.tokens import token_cross_entropy

LOSSES = {
    loss.name: loss
    for loss in (softmax_cross_entropy, binary_cross_entropy(), squared_error, huber(), hinge(), contrastive(), token_cross_entropy)
}
"""Every loss by its name in a config, as it is without options."""

__all__ = [
    "LOSSES",
    "Loss",
    "binary_cross_entropy",
    "contrastive",
    "cross_entropy",
    "hinge",
    "huber",
    "softmax_cross_entropy",
    "squared_error",
    "token_cross_entropy",
]
