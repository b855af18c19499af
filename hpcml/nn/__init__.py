"""From batch to gradient: layers, losses and models over one flat arena."""

import difflib as _difflib

from hpcml.nn.arena import Arena, Parameter, Tail
from hpcml.nn.context import Context
from hpcml.nn.layers import (
    GRU,
    LSTM,
    RNN,
    AveragePool,
    Bias,
    Conv,
    Dense,
    Flatten,
    Layer,
    MaxPool,
    Parallel,
    ReLU,
    Reshape,
    Residual,
    Running,
    Sequential,
    Tanh,
    Tied,
)
from hpcml.nn.losses import (
    LOSSES,
    Loss,
    binary_cross_entropy,
    contrastive,
    cross_entropy,
    hinge,
    huber,
    softmax_cross_entropy,
    squared_error,
)
from hpcml.nn.model import Model
from hpcml.nn.workspace import Workspace
from hpcml.nn.zoo import autoencoder, lenet, linear, lstm, mlp

__all__ = [
    "GRU",
    "LOSSES",
    "LSTM",
    "RNN",
    "Arena",
    "AveragePool",
    "Bias",
    "Context",
    "Conv",
    "Dense",
    "Flatten",
    "Layer",
    "Loss",
    "MaxPool",
    "Model",
    "Parallel",
    "Parameter",
    "ReLU",
    "Reshape",
    "Residual",
    "Running",
    "Sequential",
    "Tail",
    "Tanh",
    "Tied",
    "Workspace",
    "autoencoder",
    "binary_cross_entropy",
    "contrastive",
    "cross_entropy",
    "hinge",
    "huber",
    "lenet",
    "linear",
    "lstm",
    "mlp",
    "softmax_cross_entropy",
    "squared_error",
]


def __getattr__(name: str) -> object:
    close = _difflib.get_close_matches(name, __all__, n=1, cutoff=0.5)
    raise AttributeError(f"hpcml.nn has no {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
