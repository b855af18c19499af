"""Layers with explicit forward and backward."""

from hpcml.nn.layers.activation import Flatten, ReLU, Tanh
from hpcml.nn.layers.attention import Attention, DotProduct
from hpcml.nn.layers.batch_norm import BatchNorm
from hpcml.nn.layers.boltzmann import RestrictedBoltzmann
from hpcml.nn.layers.composite import Parallel, Residual, Sequential
from hpcml.nn.layers.convolution import Bias, Conv
from hpcml.nn.layers.dense import Dense
from hpcml.nn.layers.dropout import Dropout
from hpcml.nn.layers.embedding import Embedding, Positions, TiedHead
from hpcml.nn.layers.hopfield import Hopfield
from hpcml.nn.layers.layer import Layer, Running, Tied, he_normal, normal, ones, zeros
from hpcml.nn.layers.ngrams import NGrams, Recall
from hpcml.nn.layers.norm import LayerNorm, RMSNorm
from hpcml.nn.layers.pooling import AveragePool, MaxPool
from hpcml.nn.layers.recompute import Recompute
from hpcml.nn.layers.recurrent import GRU, LSTM, RNN
from hpcml.nn.layers.reshape import Reshape
from hpcml.nn.layers.rotary import Rotary
from hpcml.nn.layers.self_organising_map import SelfOrganisingMap
from hpcml.nn.layers.smooth import GELU, Sigmoid, SiLU
from hpcml.nn.layers.softmax import Softmax

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "Attention",
    "AveragePool",
    "BatchNorm",
    "Bias",
    "Conv",
    "Dense",
    "DotProduct",
    "Dropout",
    "Embedding",
    "Flatten",
    "Hopfield",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "NGrams",
    "Parallel",
    "Positions",
    "RMSNorm",
    "ReLU",
    "Recall",
    "Recompute",
    "Reshape",
    "Residual",
    "RestrictedBoltzmann",
    "Rotary",
    "Running",
    "SelfOrganisingMap",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Tied",
    "TiedHead",
    "he_normal",
    "normal",
    "ones",
    "zeros",
]
