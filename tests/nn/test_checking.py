"""`hpcml.nn.check` passes every layer of the house, and names what is wrong with a planted mistake."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml import nn
from hpcml.errors import NumericsError, ShapeError
from hpcml.nn import Layer
from hpcml.nn.checking import differences

TOKENS = np.array([[0, 3, 3, 1], [2, 2, 2, 2], [4, 0, 1, 3]], float)

LAYERS = {
    "dense": (lambda: nn.Dense(4), (3,)),
    "dense over positions": (lambda: nn.Dense(4, positions=True), (2, 3)),
    "flatten": (nn.Flatten, (2, 3)),
    "relu": (nn.ReLU, (5,)),
    "tanh": (nn.Tanh, (5,)),
    "sigmoid": (nn.Sigmoid, (5,)),
    "silu": (nn.SiLU, (2, 3)),
    "gelu": (nn.GELU, (5,)),
    "gelu by erf": (lambda: nn.GELU(tanh=False), (2, 3)),
    "softmax": (nn.Softmax, (2, 5)),
    "layer norm": (nn.LayerNorm, (3, 5)),
    "rms norm": (nn.RMSNorm, (3, 5)),
    "batch norm": (nn.BatchNorm, (3,)),
    "batch norm of images": (nn.BatchNorm, (2, 2, 3)),
    "dropout": (lambda: nn.Dropout(0.4), (2, 5)),
    "positions": (nn.Positions, (3, 4)),
    "rotary": (lambda: nn.Rotary(2), (5, 24)),
    "rotary attention": (lambda: nn.Attention(8, 2, causal=True, rotary=True, init=nn.layers.normal(0.5)), (5, 8)),
    "dot product": (lambda: nn.DotProduct(2), (5, 12)),
    "causal dot product": (lambda: nn.DotProduct(2, causal=True), (5, 12)),
    "dot product with dropout": (lambda: nn.DotProduct(2, dropout=0.4), (5, 12)),
    "causal dot product with dropout": (lambda: nn.DotProduct(2, causal=True, dropout=0.4), (5, 12)),
    "attention": (lambda: nn.Attention(4, 2, causal=True, init=nn.layers.normal(0.5)), (5, 4)),
    "convolution": (lambda: nn.Conv(4, 3, padding=1), (4, 5, 2)),
    "strided convolution of groups": (lambda: nn.Conv(4, (3, 2), stride=2, padding=1, groups=2), (4, 5, 2)),
    "convolution of sequences": (lambda: nn.Conv(3, 3, stride=2), (7, 2)),
    "bias": (nn.Bias, (2, 3)),
    "max-pooling": (lambda: nn.MaxPool(2), (4, 5, 2)),
    "overlapping max-pooling": (lambda: nn.MaxPool(3, stride=2, padding=1), (5, 5, 2)),
    "average pooling": (lambda: nn.AveragePool(2, stride=1), (4, 3)),
    "pooling of everything": (nn.AveragePool, (4, 3, 2)),
    "reshape": (lambda: nn.Reshape(3, 2), (6,)),
    "rnn": (lambda: nn.RNN(3, sequence=True), (4, 2)),
    "lstm": (lambda: nn.LSTM(3), (4, 2)),
    "gru": (lambda: nn.GRU(3, sequence=True), (4, 2)),
    "sequential": (lambda: nn.Sequential(nn.Dense(3), nn.GELU()), (4,)),
    "residual": (lambda: nn.Residual(nn.LayerNorm(), nn.Dense(4), nn.Dropout(0.3)), (4,)),
    "parallel": (lambda: nn.Parallel(nn.Dense(3), nn.Sigmoid(), concatenate=True), (4,)),
    "recompute": (lambda: nn.Recompute(*(nn.Residual(nn.Dense(4), nn.Tanh(), nn.Dropout(0.3)) for _ in range(3))), (4,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_the_house_passes(name):
    make, shape = LAYERS[name]
    nn.check(make(), shape)


@pytest.mark.parametrize("options", [{}, {"context": 3}, {"padding": 2}], ids=str)
def test_the_embedding_passes_on_tokens(options):
    nn.check(nn.Embedding(5, 4, **options), (4,), x=TOKENS, input_slope=False)


def test_differences_are_the_slope_of_a_cube():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    kept = x.copy()
    np.testing.assert_allclose(differences(lambda: (x**3).sum(), x), 3 * x**2, rtol=1e-8)
    np.testing.assert_array_equal(x, kept)
    with pytest.raises(ShapeError, match="contiguous"):
        differences(lambda: 0, x.T)


class Scale(Layer):
    """Multiply each number by a learned one: a user's own layer."""

    def build(self, shape):
        return shape, {"factor": (shape, nn.layers.ones)}

    def forward(self, x):
        self._x, out = x, self.take("out", x.shape, x)
        np.multiply(x, self.parameters["factor"].data, out=out)
        return out

    def backward(self, slope):
        np.einsum("b...,b...->...", slope, self._x, out=self.parameters["factor"].grad)
        slope *= self.parameters["factor"].data
        return slope


def test_a_users_own_layer_passes():
    nn.check(Scale(), (3, 2))


class WrongShape(Scale):
    def forward(self, x):
        return super().forward(x).reshape(len(x), -1)


class WrongGradient(Scale):
    def backward(self, slope):
        slope = super().backward(slope)
        self.parameters["factor"].grad[0, 1] *= 2
        return slope


class Adds(Scale):
    def backward(self, slope):
        kept = self.parameters["factor"].grad.copy()
        slope = super().backward(slope)
        self.parameters["factor"].grad[...] += kept
        return slope


class WrongSlope(Scale):
    def backward(self, slope):
        return super().backward(slope) * 1.01


class WrongSlopeShape(Scale):
    def backward(self, slope):
        return super().backward(slope)[:, :1]


class Spoils(Scale):
    def forward(self, x):
        x *= self.parameters["factor"].data
        self._x = x
        return x


class Remembers(Scale):
    largest = 0

    def forward(self, x):
        self.largest = max(self.largest, len(x))
        return super().forward(x) * self.largest

    def backward(self, slope):
        slope = super().backward(slope) * self.largest
        self.parameters["factor"].grad[...] *= self.largest
        return slope


class Grows(Scale):
    def forward(self, x):
        self.kept = [*getattr(self, "kept", []), np.zeros(1000)]
        return super().forward(x)


class KeepsInputs(Scale):
    def forward(self, x):
        self.kept = [*getattr(self, "kept", []), x]
        return super().forward(x)


class Allocates(Scale):
    def forward(self, x):
        self._x = x
        return x * self.parameters["factor"].data


class AllocatesInBackward(Scale):
    def backward(self, slope):
        np.sum(slope * self._x, axis=0, out=self.parameters["factor"].grad)
        slope *= self.parameters["factor"].data
        return slope


class Single(Scale):
    def forward(self, x):
        return super().forward(x).astype(np.float32)


class WrongInEvaluation(Scale):
    def forward(self, x):
        return super().forward(x) if self.context.training else super().forward(x) * 2


class NoOutput(Scale):
    def forward(self, x):
        super().forward(x)


class NoSlope(Scale):
    def backward(self, slope):
        super().backward(slope)


class NeedsRows(Scale):
    def forward(self, x):
        return super().forward(x) if x.max() else x


class BareShape(Scale):
    def build(self, shape):
        return shape


class NoSuper(Scale):
    def __init__(self):
        self.size = 3


PLANTED = {
    NoOutput: (ShapeError, "NoOutput: forward gives None, no array; return the outputs"),
    NoSlope: (ShapeError, "NoSlope: backward gives None, no array; return the slope of the input"),
    NeedsRows: (ShapeError, "NeedsRows: forward raises ValueError for 0 rows: .*; any number of rows may come, and a worker may have none"),
    BareShape: (ShapeError, r"BareShape.build gives \(3, 2\); return the shape of an output row and the parameters, such as \(shape, {}\)"),
    NoSuper: (ShapeError, r"layer 0 is a NoSuper whose __init__ leaves out super\(\).__init__\(\); call it first"),
    WrongShape: (ShapeError, r"WrongShape: forward gives \(4, 6\) float64, build promised \(4, 3, 2\) float64"),
    Single: (ShapeError, r"forward gives \(4, 3, 2\) float32"),
    WrongGradient: (NumericsError, r"the gradient of 0\.wronggradient\.factor is .* at \(0, 1\), finite differences give .*; 1 of 6"),
    Adds: (NumericsError, r"the gradient of 0\.adds\.factor is nan"),
    WrongSlope: (NumericsError, "the slope of the input is .*; 24 of 24 are wrong"),
    WrongSlopeShape: (ShapeError, r"backward gives \(4, 1, 2\), the input has \(4, 3, 2\)"),
    Spoils: (NumericsError, "forward overwrites its input"),
    Remembers: (NumericsError, "after a larger one"),
    Grows: (NumericsError, "five steps keep [0-9]+ bytes more; take buffers by self.take"),
    KeepsInputs: (NumericsError, "five steps keep [0-9]+ bytes more; .*an input is kept until the next forward, not longer"),
    Allocates: (NumericsError, r"Allocates: each step takes [0-9]+ bytes anew for [0-9]+ bytes of rows; take memory by self\.take"),
    AllocatesInBackward: (NumericsError, r"each step takes [0-9]+ bytes anew .* write there with out="),
    WrongInEvaluation: (NumericsError, "are wrong, in evaluation"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_mistake_is_named(planted):
    error, message = PLANTED[planted]
    with pytest.raises(error, match=message):
        nn.check(planted(), (3, 2))


def test_shapes_and_tokens_that_check_cannot_use_are_named():
    with pytest.raises(ShapeError, match=r"rows have the shape 3, not a tuple; write \(3,\)"):
        nn.check(Scale(), 3)
    with pytest.raises(ShapeError, match=r"Embedding takes tokens, .*; give rows of them as x, of shape \(B, 4\), and input_slope=False"):
        nn.check(nn.Embedding(5, 3), (4,))
