"""Layers with explicit forward and backward."""

from hpcml.nn.layers.activation import Flatten, ReLU, Tanh
from hpcml.nn.layers.composite import Parallel, Residual, Sequential
from hpcml.nn.layers.convolution import Bias, Conv
from hpcml.nn.layers.dense import Dense
from hpcml.nn.layers.layer import Layer, Running, Tied, he_normal, normal, ones, zeros
from hpcml.nn.layers.pooling import AveragePool, MaxPool
from hpcml.nn.layers.recurrent import GRU, LSTM, RNN
from hpcml.nn.layers.reshape import Reshape

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AveragePool",
    "Bias",
    "Conv",
    "Dense",
    "Flatten",
    "Layer",
    "MaxPool",
    "Parallel",
    "ReLU",
    "Reshape",
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
