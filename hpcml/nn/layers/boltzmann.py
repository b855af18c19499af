"""The restricted Boltzmann machine, trained by contrastive divergence.

Letters: B rows of one worker, d visible and h hidden units, k Gibbs steps. v0 are the rows, vk what the chain makes of them.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, aligned, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape, normal, zeros
from hpcml.nn.layers.ranges import require_range

_HOST = aligned(1, np.float32)
"""Says that a buffer lives in host memory."""


class RestrictedBoltzmann(Layer):
    """Binary visible and hidden units with weights between them; it gives its reconstruction of each row and learns by CD-k.

    Backward writes the gradient of free_energy(v0) - free_energy(vk), summed over the rows by their weights, whatever the slope:
    the loss only reports. Layers below get zeros. The chain's random numbers depend on (seed, step, worker, micro-batch, layer)
    alone; they are drawn on the host, also for a device, which costs a copy.

    References:
        Hinton, Training products of experts by minimizing contrastive divergence, Neural Computation, 2002.
    """

    def __init__(self, hidden: int, steps: int = 1, highest: float = 1.0) -> None:
        """Make a layer of `hidden` units.

        Args:
            hidden: h, 1 or more.
            steps: k, 1 or more.
            highest: the number that means surely on; rows hold numbers from 0 to it, taken for probabilities.

        Raises:
            ShapeError: for numbers that cannot be.
        """
        super().__init__()
        self.hidden = values.whole("RestrictedBoltzmann's number of hidden units", hidden)
        self.steps = values.whole("RestrictedBoltzmann's number of Gibbs steps", steps)
        self.highest = values.positive("RestrictedBoltzmann's highest number", highest)

    def build(self, shape: Shape) -> Built:
        """Return the same shape, and the parameters weight (d, h), visible (d,) and hidden (h,), the biases."""
        if len(shape) != 1:
            raise ShapeError(f"RestrictedBoltzmann takes rows of one axis, got rows of shape {shape}; put Flatten() before it")
        return shape, {"weight": ((shape[0], self.hidden), normal(0.01)), "visible": (shape, zeros), "hidden": ((self.hidden,), zeros)}

    def forward(self, x: Array) -> Array:
        """Return what the hidden units make of each row (B, d): from their probabilities, or in training from one draw of them.

        Raises:
            TargetError: for a row with a number below 0 or above `highest`.
        """
        require_range("RestrictedBoltzmann", x, self.highest)
        xp, out = namespace(x), self.take("out", x.shape, x)
        self._rows, self._up = self.take("rows", x.shape, x), self.take("up", (len(x), self.hidden), x)
        xp.divide(x, self.highest, out=self._rows)
        self._rise(self._rows, self._up)
        if self.context.training:
            self._walk(out)
        else:
            self._fall(self._up, out)
        out *= self.highest
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients with the rows' sum of vk (x) p(h | vk) - v0 (x) p(h | v0), and slope with zeros, which it returns."""
        xp, weights = namespace(slope), self.context.weights
        weight, visible, hidden = (self.parameters[name] for name in ("weight", "visible", "hidden"))
        product = self.take("product", weight.shape, slope)
        last_up = self._last_up
        if weights is not None:
            for units in (self._up, last_up):
                units *= weights[:, None]
        xp.matmul(self._last.T, last_up, out=weight.grad)
        xp.matmul(self._rows.T, self._up, out=product)
        weight.grad[...] -= product
        last_up -= self._up
        xp.sum(last_up, axis=0, out=hidden.grad)
        self._last -= self._rows
        if weights is not None:
            self._last *= weights[:, None]
        xp.sum(self._last, axis=0, out=visible.grad)
        slope.fill(0)
        return slope

    def free_energy(self, x: Array) -> Array:
        """Return minus the logarithm of each row's probability, (B,), up to one number for all rows: high where a row is unusual."""
        xp, rows = namespace(x), x / self.highest
        field = rows @ self.parameters["weight"].data + self.parameters["hidden"].data
        return -(rows @ self.parameters["visible"].data) - xp.logaddexp(0, field).sum(axis=1)

    def _walk(self, out: Array) -> None:
        """Take k Gibbs steps from the rows; overwrite out with the visible units' probabilities in the first."""
        self._last, self._last_up = self.take("last", out.shape, out), self.take("last_up", self._up.shape, out)
        random = self.random("gibbs")
        self._last_up[...] = self._up
        for step in range(self.steps):
            self._draw(random, self._last_up)
            self._fall(self._last_up, self._last)
            if not step:
                out[...] = self._last
            self._draw(random, self._last)
            self._rise(self._last, self._last_up)

    def _rise(self, visible: Array, out: Array) -> None:
        """Overwrite out (B, h) with the probabilities that hidden units are on."""
        namespace(out).matmul(visible, self.parameters["weight"].data, out=out)
        out += self.parameters["hidden"].data
        _logistic(out)

    def _fall(self, hidden: Array, out: Array) -> None:
        """Overwrite out (B, d) with the probabilities that visible units are on."""
        namespace(out).matmul(hidden, self.parameters["weight"].data.T, out=out)
        out += self.parameters["visible"].data
        _logistic(out)

    def _draw(self, random: np.random.Generator, units: Array) -> None:
        """Overwrite probabilities with 1, as often as they say, and 0."""
        xp, drawn = namespace(units), self.take(f"drawn{units.shape[1:]}", units.shape, _HOST)
        random.random(out=drawn, dtype=np.float32)
        xp.greater(units, drawn if xp is np else xp.asarray(drawn), out=units)


def _logistic(x: Array) -> None:
    """Overwrite x with its logistic function, by tanh, which cannot overflow."""
    x *= 0.5
    namespace(x).tanh(x, out=x)
    x += 1
    x *= 0.5
