"""From gradient to parameters: rules and rates over flat vectors."""

from hpcml.optim.norms import norm
from hpcml.optim.rates import Constant, Cosine, Rate, Steps, Warmup, linear_scaling
from hpcml.optim.rules import LARS, SGD, AdamW, Clipped, Rule, Scratch

__all__ = [
    "LARS",
    "SGD",
    "AdamW",
    "Clipped",
    "Constant",
    "Cosine",
    "Rate",
    "Rule",
    "Scratch",
    "Steps",
    "Warmup",
    "linear_scaling",
    "norm",
]
