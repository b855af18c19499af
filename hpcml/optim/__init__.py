"""From gradient to parameters: rules and rates over flat vectors."""

from hpcml.optim.blocks import Scratch, apply, apply_whole
from hpcml.optim.norms import norm
from hpcml.optim.rates import Constant, Cosine, Rate, Steps, Warmup, linear_scaling
from hpcml.optim.rules import LAMB, LARS, SGD, AdaGrad, AdamW, Clipped, Look, Rule, rate_at

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "AdaGrad",
    "AdamW",
    "Clipped",
    "Constant",
    "Cosine",
    "Look",
    "Rate",
    "Rule",
    "Scratch",
    "Steps",
    "Warmup",
    "apply",
    "apply_whole",
    "linear_scaling",
    "norm",
    "rate_at",
]
