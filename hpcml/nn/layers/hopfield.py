"""The Hopfield network, trained by the Hebb rule.

Letters: B rows of one worker, d units; a state is -1 or 1 for each unit.
"""

from __future__ import annotations

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Layer, Shape, zeros
from hpcml.nn.layers.ranges import require_range


class Hopfield(Layer):
    """Units that are all joined with each other; it gives what it recalls from each row and learns by summed outer products.

    Backward writes minus the rows' sum of s (x) s / d by their weights, without the diagonal, whatever the slope: under SGD with rate 1
    an epoch of equal steps adds the mean outer product of all rows once a step, the Hebb rule but for a factor. About 0.138 d
    unrelated patterns can be kept. The loss only reports; layers below get zeros.

    References:
        Hopfield, Neural networks and physical systems with emergent collective computational abilities, PNAS, 1982.
    """

    def __init__(self, sweeps: int = 1, highest: float = 1.0) -> None:
        """Make a network.

        Args:
            sweeps: how often every unit is set anew in a recall, one after the other, 1 or more.
            highest: the number that means on; rows hold numbers from 0 to it, and count as on above its half.

        Raises:
            ShapeError: for numbers that cannot be.
        """
        super().__init__()
        self.sweeps = values.whole("Hopfield's number of sweeps", sweeps)
        self.highest = values.positive("Hopfield's highest number", highest)

    def build(self, shape: Shape) -> Built:
        """Return the same shape and the parameter weight (d, d), symmetric."""
        if len(shape) != 1:
            raise ShapeError(f"Hopfield takes rows of one axis, got rows of shape {shape}; put Flatten() before it")
        return shape, {"weight": ((shape[0], shape[0]), zeros)}

    def forward(self, x: Array) -> Array:
        """Return the states that the network comes to from each row, (B, d) of 0 and `highest`.

        Raises:
            TargetError: for a row with a number below 0 or above `highest`.
        """
        require_range("Hopfield", x, self.highest)
        xp, out, self._states = namespace(x), self.take("out", x.shape, x), self.take("states", x.shape, x)
        xp.greater(x, self.highest / 2, out=self._states)
        self._states *= 2
        self._states -= 1
        recalled = self.take("recalled", x.shape[::-1], x)
        recalled[...] = self._states.T
        for _ in range(self.sweeps):
            self._sweep(recalled)
        out[...] = recalled.T
        out += 1
        out *= self.highest / 2
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradient with minus the outer products' sum, and slope with zeros, which it returns."""
        xp, weight, weights = namespace(slope), self.parameters["weight"], self.context.weights
        weighed = self.take("out", slope.shape, slope)
        xp.multiply(self._states, -1 / slope.shape[1], out=weighed)
        if weights is not None:
            weighed *= weights[:, None]
        xp.matmul(self._states.T, weighed, out=weight.grad)
        xp.fill_diagonal(weight.grad, 0)
        slope.fill(0)
        return slope

    def energy(self, x: Array) -> Array:
        """Return -s W s / 2 of each row (B,), which a recall never raises."""
        states = namespace(x).where(x > self.highest / 2, 1, -1).astype(x.dtype)
        return -((states @ self.parameters["weight"].data) * states).sum(axis=1) / 2

    def _sweep(self, states: Array) -> None:
        """Set each unit of states (d, B) in turn to the sign of its field; where that is zero, it stays."""
        xp, weight = namespace(states), self.parameters["weight"].data
        field, acts = self.take("field", states.shape[1:], states), self.take("acts", states.shape[1:], states, np.bool_)
        for unit, row in zip(states, weight, strict=True):
            xp.matmul(row, states, out=field)
            xp.sign(field, out=field)
            xp.not_equal(field, 0, out=acts)
            xp.copyto(unit, field, where=acts)
