"""The fully connected layer."""

from __future__ import annotations

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, he_normal, zeros


class Dense(Layer):
    """Multiply rows by a weight matrix and add a bias: (B, d) -> (B, k), or each position of (B, T, d) -> (B, T, k)."""

    keeps_output = False

    def __init__(self, outputs: int, init: Init = he_normal, *, positions: bool = False) -> None:
        """Make a layer of k = `outputs` columns; `init` gives the first weights, the bias starts at zero.

        Args:
            outputs: k.
            init: of the weights.
            positions: take rows of several axes and multiply along the last one; else they are refused, as they mostly want Flatten.
        """
        super().__init__()
        self.outputs, self.init = values.whole("Dense's number of outputs", outputs), init
        self.positions = values.flag("Dense's positions", positions)

    def build(self, shape: Shape) -> Built:
        """Return (k,), behind the positions if any, and the parameters weight (d, k) and bias (k,)."""
        if len(shape) != 1 and not (self.positions and shape):
            raise ShapeError(f"Dense takes rows of one axis, got rows of shape {shape}; put Flatten() before it")
        return (*shape[:-1], self.outputs), {"weight": ((shape[-1], self.outputs), self.init), "bias": ((self.outputs,), zeros)}

    def forward(self, x: Array) -> Array:
        """Return x @ weight + bias, (B, k); keeps x until backward."""
        self._x, places = x.reshape(-1, x.shape[-1]), x.shape[:-1]
        out = self.take("out", (*places, self.outputs), x)
        flat = out.reshape(-1, self.outputs)
        self.matmul(self._x, self.parameters["weight"].data, out=flat)
        flat += self.parameters["bias"].data
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients from slope (B, k) and return the input's slope (B, d)."""
        xp, flat = namespace(slope), slope.reshape(-1, self.outputs)
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        self.matmul(self._x.T, flat, out=weight.grad)
        xp.sum(flat, axis=0, out=bias.grad)
        self.context.finish(self)  # before the input's slope, which takes as long again: the gradients may leave meanwhile
        if not self.needs_input_slope:
            return slope
        back = self.context.scratch.slope(self._x.shape, slope)
        self.matmul(flat, weight.data.T, out=back)
        return back.reshape(*slope.shape[:-1], back.shape[1])
