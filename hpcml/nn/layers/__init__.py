"""Layers with explicit forward and backward."""

from hpcml.nn.layers.activation import Flatten, ReLU, Tanh
from hpcml.nn.layers.composite import Parallel, Residual, Sequential
from hpcml.nn.layers.dense import Dense
from hpcml.nn.layers.layer import Layer, Running, Tied, he_normal, normal, ones, zeros

__all__ = [
    "Dense",
    "Flatten",
    "Layer",
    "Parallel",
    "ReLU",
    "Residual",
    "Running",
    "Sequential",
    "Tanh",
    "Tied",
    "he_normal",
    "normal",
    "ones",
    "zeros",
]
