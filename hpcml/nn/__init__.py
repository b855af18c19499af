"""From batch to gradient: layers, losses and models over one flat arena."""

from hpcml.nn.arena import Arena, Parameter, Tail
from hpcml.nn.layers import Dense, Flatten, Layer, ReLU, Tanh
from hpcml.nn.losses import LOSSES, Loss, softmax_cross_entropy, squared_error
from hpcml.nn.model import Model
from hpcml.nn.workspace import Workspace
from hpcml.nn.zoo import linear, mlp

__all__ = [
    "LOSSES",
    "Arena",
    "Dense",
    "Flatten",
    "Layer",
    "Loss",
    "Model",
    "Parameter",
    "ReLU",
    "Tail",
    "Tanh",
    "Workspace",
    "linear",
    "mlp",
    "softmax_cross_entropy",
    "squared_error",
]
