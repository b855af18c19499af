"""Models by name."""

from hpcml.nn.zoo.classic import hopfield, rbm, som
from hpcml.nn.zoo.dense import autoencoder, linear, mlp
from hpcml.nn.zoo.images import lenet
from hpcml.nn.zoo.residual import resnet
from hpcml.nn.zoo.sequences import lstm
from hpcml.nn.zoo.transformer import transformer

__all__ = ["autoencoder", "hopfield", "lenet", "linear", "lstm", "mlp", "rbm", "resnet", "som", "transformer"]
