"""Normalisation of each channel over a virtual worker's rows, or over all workers', with running statistics for evaluation.

Letters: B rows of one worker, m places (rows times positions), M places of all workers, c channels.
h is the normalised input, r one over the deviation.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Running, Shape, ones, zeros
from hpcml.nn.workspace import pieces


class BatchNorm(Layer):
    """In training, give each channel mean 0 and variance 1 over the rows of this virtual worker; in evaluation, by running statistics.

    The last axis holds the channels: (B, ..., c). Running statistics move towards the mean over all workers of their batch
    statistics, exactly, on any number of ranks; the variance among them is that of a sample, with m - 1.
    Synchronised, mean and variance are those of the rows of all workers of the step, as if they were one batch: two vectors a layer
    are summed over the workers in forward, and two in backward, in float64.

    References:
        Ioffe and Szegedy, Batch normalization, ICML 2015.
    """

    keeps_output = False

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, *, synchronised: bool = False) -> None:
        """Keep this part of the running statistics at each step, and add epsilon to variances.

        Args:
            momentum: what stays of the running statistics.
            epsilon: added to variances.
            synchronised: take the statistics over all workers' rows; needs the strategy `EveryStep`.
        """
        super().__init__()
        self.momentum, self.epsilon = values.part("BatchNorm's momentum", momentum), values.small("BatchNorm's epsilon", epsilon)
        self.synchronised = values.flag("BatchNorm's synchronised", synchronised)
        self._batch = False

    def build(self, shape: Shape) -> Built:
        """Return the same shape, the parameters gain (c,) and bias (c,), and the running mean (c,) and variance (c,)."""
        if not shape:
            raise ShapeError("BatchNorm needs rows of at least one axis, the channels")
        c = shape[-1:]
        self.exchanged = 2 * c[0] + 1 if self.synchronised else 0
        return shape, {"gain": (c, ones), "bias": (c, zeros), "mean": Running(c, zeros), "variance": Running(c, ones)}

    def forward(self, x: Array) -> Array:
        """Return the normalised rows in the layer's own buffer; keeps h and r until backward."""
        xp, c = namespace(x), x.shape[-1]
        flat = x.reshape(-1, c)
        out, self._hat = self.take("out", flat.shape, x), self.take("hat", flat.shape, x)
        mean, self._scale = self.take("mean", (1, c), x)[0], self.take("scale", (1, c), x)[0]
        self._batch = self.context.training
        if self._batch:
            self._measure(flat, mean, rows=len(x))
        else:
            mean[...] = self.parameters["mean"].data
            self._scale[...] = self.parameters["variance"].data
        self._scale += self.epsilon
        xp.sqrt(self._scale, out=self._scale)
        xp.divide(1, self._scale, out=self._scale)
        for piece in pieces(x, len(flat), c):
            h, o = self._hat[piece], out[piece]
            xp.subtract(flat[piece], mean, out=h)
            h *= self._scale
            xp.multiply(h, self.parameters["gain"].data, out=o)
            o += self.parameters["bias"].data
        return out.reshape(x.shape)

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients and slope, which it returns as gain r (slope - mean slope - h mean h slope)."""
        xp, c = namespace(slope), slope.shape[-1]
        flat, gain, bias = slope.reshape(-1, c), self.parameters["gain"], self.parameters["bias"]
        work, row = self.take("out", flat.shape, slope), self.take("row", (1, c), slope)[0]
        gain.grad.fill(0)
        bias.grad.fill(0)
        for piece in pieces(slope, len(flat), c):
            xp.multiply(flat[piece], self._hat[piece], out=work[piece])
            xp.sum(work[piece], axis=0, out=row)
            gain.grad[...] += row
            xp.sum(flat[piece], axis=0, out=row)
            bias.grad[...] += row
        means = self._mean_slopes(gain.grad, bias.grad, len(flat))
        for piece in pieces(slope, len(flat), c):
            s, h = flat[piece], self._hat[piece]
            if self._batch:
                h *= means[0]
                s -= h
                s -= means[1]
            xp.multiply(self._scale, gain.data, out=row)
            s *= row
        return slope

    def _measure(self, flat: Array, mean: Array, rows: int) -> None:
        """Overwrite mean and scale with the batch's mean and variance, and the running statistics' gradients with what follows."""
        xp, m = namespace(flat), max(1, len(flat))
        row, centred = self.take("row", (1, len(mean)), flat)[0], self._hat
        mean.fill(0)
        for piece in pieces(flat, len(flat), len(mean)):
            xp.sum(flat[piece], axis=0, out=row)
            mean += row
        mean /= m
        self._scale.fill(0)
        for piece in pieces(flat, len(flat), len(mean)):
            xp.subtract(flat[piece], mean, out=centred[piece])
            centred[piece] *= centred[piece]
            xp.sum(centred[piece], axis=0, out=row)
            self._scale += row
        share = self.context.weigh(rows) * (1 - self.momentum)
        if self.synchronised:
            self._meet_statistics(mean, row, m)
        else:
            xp.divide(self._scale, max(1, m - 1), out=row)
            self._scale /= m
        for name, statistic in (("mean", mean), ("variance", row)):
            running = self.parameters[name]
            xp.subtract(running.data, statistic, out=running.grad)
            running.grad[...] *= share

    def _meet_statistics(self, mean: Array, sample: Array, m: int) -> None:
        """Overwrite mean and scale, this worker's mean and sum of centred squares, with mean and variance of all, and `sample` with theirs.

        In float64 the squares of the sums may be subtracted: they lose no digit that float32 has.
        """
        xp, c = namespace(mean), len(mean)
        sums, work = self.take("sums", (2 * c + 1,), mean, np.float64), self.take("wide", (1, c), mean, np.float64)[0]
        degrees = self.take("degrees", (1,), mean, np.float64)
        total, squares, self._places = sums[:c], sums[c : 2 * c], sums[2 * c :]
        xp.multiply(mean, float(m), out=total)
        xp.multiply(total, total, out=squares)
        squares /= m
        squares += self._scale
        self._places[...] = m
        self.context.meet(sums)
        total /= self._places
        xp.multiply(total, total, out=work)
        work *= self._places
        squares -= work
        mean[...] = total
        xp.divide(squares, self._places, out=work)
        self._scale[...] = work
        xp.subtract(self._places, 1, out=degrees)
        xp.maximum(degrees, 1, out=degrees)
        squares /= degrees
        sample[...] = squares

    def _mean_slopes(self, gain: Array, bias: Array, m: int) -> Array:
        """Return (2, c) the mean slopes of gain and bias over the places that share the statistics."""
        xp, c = namespace(gain), len(gain)
        means = self.take("means", (2, c), gain)
        if not self.synchronised or not self._batch:
            xp.divide(gain, m, out=means[0])
            xp.divide(bias, m, out=means[1])
            return means
        wide = self.take("slopes", (2 * c,), gain, np.float64)
        wide[:c], wide[c:] = gain, bias
        self.context.meet(wide)
        wide /= self._places
        means[...] = wide.reshape(2, c)
        return means
