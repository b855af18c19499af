"""Layers with explicit forward and backward."""

from hpcml.nn.layers.activation import Flatten, ReLU, Tanh
from hpcml.nn.layers.dense import Dense
from hpcml.nn.layers.layer import Layer, he_normal, zeros

__all__ = ["Dense", "Flatten", "Layer", "ReLU", "Tanh", "he_normal", "zeros"]
