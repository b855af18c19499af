"""Normalisation of each position on its own, over its last axis.

Letters: m positions, d numbers of the last axis. h is the normalised input, r one over the deviation.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape, ones, zeros
from hpcml.nn.layers.sums import sum_rows
from hpcml.nn.workspace import pieces


class LayerNorm(Layer):
    """Shift and scale the last axis to mean 0 and variance 1, then by a learned gain and bias.

    References:
        Ba, Kiros and Hinton, Layer normalization, 2016.
    """

    centred, keeps_output = True, False

    def __init__(self, epsilon: float = 1e-5) -> None:
        """Add epsilon to the variance."""
        super().__init__()
        self.epsilon = values.small(f"{type(self).__name__}'s epsilon", epsilon)

    def build(self, shape: Shape) -> Built:
        """Return the same shape and the parameters gain (d,) and bias (d,)."""
        if not shape:
            raise ShapeError(f"{type(self).__name__} needs rows of at least one axis")
        own = {"gain": (shape[-1:], ones), "bias": (shape[-1:], zeros)}
        return shape, own if self.centred else {"gain": own["gain"]}

    def forward(self, x: Array) -> Array:
        """Return the normalised rows in the layer's own buffer; keeps x, its means and r until backward, which makes h again."""
        xp, d = namespace(x), x.shape[-1]
        flat, fast = x.reshape(-1, d), (self.fast(x) or self.kernels(x)) if self.centred else None
        self._x, out = flat, self.take("out", flat.shape, x)
        self._mean, self._scale = self.take("mean", (len(flat), 1), x), self.take("scale", (len(flat), 1), x)
        if fast is not None:
            gain, shift = self.parameters["gain"].data, self.parameters["bias"].data
            fast.layer_norm(flat, gain, shift, np.float32(self.epsilon), out, self._mean, self._scale)
            return out.reshape(x.shape)
        bias, one = self.parameters["bias"].data if self.centred else None, self._one(x)
        for piece in pieces(x, len(flat), d):
            a, o, r, mean = flat[piece], out[piece], self._scale[piece], self._mean[piece]
            h = self.scratch("hat", a.shape, x)
            if self.centred:
                xp.matmul(a, one, out=mean)
                mean *= 1 / d
                a = xp.subtract(a, mean, out=h)
            xp.multiply(a, a, out=o)
            xp.matmul(o, one, out=r)
            r *= 1 / d
            r += self.epsilon
            xp.sqrt(r, out=r)
            xp.divide(1, r, out=r)
            xp.multiply(a, r, out=h)
            xp.multiply(h, self.parameters["gain"].data, out=o)
            if bias is not None:
                o += bias
        return out.reshape(x.shape)

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients and slope, which it returns as r (g - mean g - h mean gh), g being slope times gain."""
        xp, d = namespace(slope), slope.shape[-1]
        flat, gain = slope.reshape(-1, d), self.parameters["gain"]
        fast, kernels = (self.fast(slope, self._x), self.kernels(slope, self._x)) if self.centred else (None, None)
        if fast is not None:
            fast.layer_norm_slope(flat, self._x, self._mean, self._scale, gain.data, gain.grad, self.parameters["bias"].grad)
            return slope
        if kernels is not None:
            by = gain.grad, self.parameters["bias"].grad, self.scratch("parts", (2, kernels.PARTS, d), slope)
            kernels.layer_norm_slope(flat, self._x, self._mean, self._scale, gain.data, *by)
            return slope
        work, row = self.take("out", flat.shape, slope), self.take("row", (1, d), slope)[0]
        column = self.scratch("column", (len(flat), 1), slope)
        gain.grad.fill(0)
        bias, by_gain = self.parameters["bias"].grad if self.centred else None, gain.data[:, None]
        if bias is not None:
            bias.fill(0)
        for piece in pieces(slope, len(flat), d):
            s, w, c, h = flat[piece], work[piece], column[piece], self._hat(piece)
            xp.multiply(s, h, out=w)
            sum_rows(w, self.work, row)
            gain.grad[...] += row
            xp.matmul(w, by_gain, out=c)  # the mean of gh, without gh
            c *= 1 / d
            h *= c
            if bias is not None:
                sum_rows(s, self.work, row)
                bias += row
                xp.matmul(s, by_gain, out=c)
                c *= 1 / d
            s *= gain.data
            if bias is not None:
                s -= c
            s -= h
            s *= self._scale[piece]
        return slope

    def _hat(self, piece: slice) -> Array:
        """Return h of some positions, in scratch memory."""
        xp, x = namespace(self._x), self._x[piece]
        h = self.scratch("hat", x.shape, x)
        if self.centred:
            x = xp.subtract(x, self._mean[piece], out=h)
        return xp.multiply(x, self._scale[piece], out=h)

    def _one(self, like: Array) -> Array:
        """Return ones (d, 1): a product with them is a sum over the last axis, three times as fast as numpy's own."""
        one = self.take("one", (like.shape[-1], 1), like)
        one.fill(1)
        return one


class RMSNorm(LayerNorm):
    """Scale the last axis to mean square 1, then by a learned gain.

    References:
        Zhang and Sennrich, Root mean square layer normalization, NeurIPS 2019.
    """

    centred = False
