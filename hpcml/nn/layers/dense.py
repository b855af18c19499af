"""The fully connected layer."""

from __future__ import annotations

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, he_normal, zeros


class Dense(Layer):
    """Multiply rows by a weight matrix and add a bias: (B, d) -> (B, k)."""

    def __init__(self, outputs: int, init: Init = he_normal) -> None:
        """Make a layer of k = `outputs` columns; `init` gives the first weights, the bias starts at zero."""
        super().__init__()
        self.outputs, self.init = outputs, init

    def build(self, shape: Shape) -> Built:
        """Return (k,) and the parameters weight (d, k) and bias (k,)."""
        if len(shape) != 1:
            raise ShapeError(f"Dense takes rows of one axis, got rows of shape {shape}; put Flatten() before it")
        return (self.outputs,), {"weight": ((shape[0], self.outputs), self.init), "bias": ((self.outputs,), zeros)}

    def forward(self, x: Array) -> Array:
        """Return x @ weight + bias, (B, k); keeps x until backward."""
        self._x = x
        out = self.take("out", (len(x), self.outputs), x)
        namespace(x).matmul(x, self.parameters["weight"].data, out=out)
        out += self.parameters["bias"].data
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients from slope (B, k) and return the input's slope (B, d)."""
        xp = namespace(slope)
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        xp.matmul(self._x.T, slope, out=weight.grad)
        xp.sum(slope, axis=0, out=bias.grad)
        if not self.needs_input_slope:
            return slope
        back = self.take("back", self._x.shape, slope)
        xp.matmul(slope, weight.data.T, out=back)
        return back
