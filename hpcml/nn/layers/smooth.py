"""Smooth activations: what a neuron passes on changes gradually with its input.

Forward keeps the derivative instead of input and output, over the input if nobody needs it: it is made while both are in cache, and
backward is one product.
"""

from __future__ import annotations

import math
from abc import abstractmethod

from hpcml.arrays import Array, namespace
from hpcml.arrays.special import normal_cdf
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape
from hpcml.nn.workspace import pieces


class Smooth(Layer):
    """An activation of each number on its own, given by its curve."""

    keeps_output = False

    def build(self, shape: Shape) -> Built:
        """Return the same shape and no parameters."""
        return shape, {}

    @abstractmethod
    def curve(self, x: Array, out: Array, bend: Array, scratch: Array) -> None:
        """Overwrite out with the activation of x, bend with its derivative there, scratch with anything; all (m,)."""

    def forward(self, x: Array) -> Array:
        """Return the activation of x in the layer's own buffer."""
        out, bends = self.places(x)
        flat, out_flat, bend_flat = x.reshape(-1), out.reshape(-1), bends.reshape(-1)
        for piece in pieces(x, flat.size):
            bend, scratch = (self.scratch(name, (piece.stop - piece.start,), x) for name in ("bend", "scratch"))
            self.curve(flat[piece], out_flat[piece], bend, scratch)
            bend_flat[piece] = bend
        return out

    def places(self, x: Array) -> tuple[Array, Array]:
        """Return where the activation of x and the derivative that backward needs go."""
        self._bend = x if self.may_overwrite_input else self.take("bend", x.shape, x)
        return self.take("out", x.shape, x), self._bend

    def backward(self, slope: Array) -> Array:
        """Overwrite slope with slope times the derivative, and return it."""
        namespace(slope).multiply(slope, self._bend, out=slope)
        return slope


class Sigmoid(Smooth):
    """Squash each number into (0, 1) by 1 / (1 + exp(-x))."""

    def curve(self, x: Array, out: Array, bend: Array, scratch: Array) -> None:
        """Overwrite out, bend and scratch; see Smooth."""
        xp = namespace(x)
        _sigmoid(x, out, scratch)
        xp.subtract(1, out, out=bend)
        bend *= out


class SiLU(Smooth):
    """Multiply each number by its sigmoid: x / (1 + exp(-x)).

    References:
        Elfwing, Uchibe and Doya, Sigmoid-weighted linear units, Neural Networks 2018.
    """

    def curve(self, x: Array, out: Array, bend: Array, scratch: Array) -> None:
        """Overwrite out, bend and scratch; see Smooth."""
        xp = namespace(x)
        _sigmoid(x, bend, scratch)  # s
        xp.multiply(x, bend, out=out)
        xp.subtract(x, out, out=scratch)
        scratch += 1
        bend *= scratch  # s (1 + x (1 - s))


class GELU(Smooth):
    """Multiply each number by the probability that a standard normal number is below it.

    References:
        Hendrycks and Gimpel, Gaussian error linear units, 2016; with tanh, their equation for the approximation.
    """

    def __init__(self, tanh: bool = True) -> None:
        """Take the approximation by tanh, a few times faster, or with tanh=False the true distribution function."""
        super().__init__()
        self.tanh = values.flag("GELU's tanh", tanh)

    def forward(self, x: Array) -> Array:
        """Return the activation of x in the layer's own buffer."""
        fast = self.fast(x) or self.kernels(x) if self.tanh else None
        if fast is None:
            return super().forward(x)
        out, bend = self.places(x)
        if bend is not x:
            bend[...] = x
        fast.gelu(bend.reshape(-1), out.reshape(-1))
        return out

    def curve(self, x: Array, out: Array, bend: Array, scratch: Array) -> None:
        """Overwrite out, bend and scratch; see Smooth."""
        (_gelu_tanh if self.tanh else _gelu)(x, out, bend, scratch)


def _sigmoid(x: Array, out: Array, scratch: Array) -> None:
    """Overwrite out with the sigmoid of x, true to the last digits for large |x| too, and scratch with anything."""
    xp = namespace(x)
    xp.abs(x, out=scratch)
    xp.negative(scratch, out=scratch)
    xp.exp(scratch, out=scratch)  # of -|x|: never too large
    xp.minimum(x, 0, out=out)
    xp.exp(out, out=out)  # 1 for positive x, exp(x) for negative
    scratch += 1
    out /= scratch


_A, _B = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh(x: Array, out: Array, bend: Array, scratch: Array) -> None:
    """GELU by h = (1 + tanh(u)) / 2, u = A (x + B x^3); its derivative h + 2 x h (1 - h) u' is 1 - (1 - h) (1 - 2 x h u')."""
    xp = namespace(x)
    xp.multiply(x, x, out=scratch)
    xp.multiply(scratch, _A * _B, out=bend)
    bend += _A
    bend *= x
    xp.tanh(bend, out=bend)
    bend += 1
    bend *= 0.5  # h
    xp.multiply(x, bend, out=out)
    scratch *= 6 * _A * _B
    scratch += 2 * _A  # 2 u'
    scratch *= out  # 2 x h u'
    scratch -= 1
    bend -= 1
    bend *= scratch
    xp.subtract(1, bend, out=bend)


def _gelu(x: Array, out: Array, bend: Array, scratch: Array) -> None:
    """GELU by the distribution function; its derivative is the probability plus x times the density."""
    xp = namespace(x)
    normal_cdf(x, bend, scratch)
    xp.multiply(x, bend, out=out)
    xp.multiply(x, x, out=scratch)
    scratch *= -0.5
    xp.exp(scratch, out=scratch)
    scratch *= 1 / math.sqrt(2 * math.pi)
    scratch *= x
    bend += scratch
