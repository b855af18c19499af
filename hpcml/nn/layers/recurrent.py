"""Layers that read a sequence step by step and carry a state: plain, gated (GRU) and with a memory (LSTM).

Letters: B rows of T steps of d numbers, (B, T, d); k numbers of state; G blocks of k columns that a step computes.
All steps' inputs are multiplied at once; what is left of a step is the product of the state, (B, k) by (k, G k). Backward goes through
the steps by the chain rule written out, and the weights' gradients are again one product over all steps.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, zeros
from hpcml.nn.layers.sums import sum_rows


def uniform(bound: float) -> Init:
    """Return an init of numbers spread evenly between -bound and bound."""
    return lambda random, shape: random.uniform(-bound, bound, shape)


class Recurrent(Layer):
    """A state that each step of the sequence moves: (B, T, d) -> (B, k), the last state, or (B, T, k), all of them."""

    blocks: ClassVar[int]
    """G."""

    def __init__(self, width: int, *, sequence: bool = False) -> None:
        """Make a layer with k = `width` numbers of state that starts at zero; with `sequence` it returns the states of all steps."""
        super().__init__()
        name = type(self).__name__
        self.width, self.sequence = values.whole(f"{name}'s width", width), values.flag(f"{name}'s sequence", sequence)

    def build(self, shape: Shape) -> Built:
        """Return (k,) or (T, k) and the parameters input (d, G k), state (k, G k) and bias (G k,)."""
        if len(shape) != 2:
            raise ShapeError(f"{type(self).__name__} takes rows (steps, numbers), got rows of shape {shape}; put Reshape(...) before it")
        init, columns = uniform(self.width**-0.5), self.blocks * self.width
        parameters = {"input": ((shape[1], columns), init), "state": ((self.width, columns), init), "bias": ((columns,), self.first_bias)}
        return (shape[0], self.width) if self.sequence else (self.width,), parameters

    @staticmethod
    def first_bias(random: np.random.Generator, shape: Shape) -> np.ndarray:
        """Return zeros."""
        return zeros(random, shape)

    def forward(self, x: Array) -> Array:
        """Return the last state or all states in the layer's own buffer; what backward needs is kept there too."""
        k = self.width
        rows, steps, inputs = x.shape
        self._x = self.over_time("x", steps, rows, inputs, x)
        self._x[...] = x.transpose(1, 0, 2)
        self.gates = self.over_time("gates", steps, rows, self.blocks * k, x)
        flat = self.gates.reshape(-1, self.blocks * k)
        self.matmul(self._x.reshape(-1, inputs), self.parameters["input"].data, out=flat)
        flat += self.parameters["bias"].data
        self.states = self.over_time("states", steps + 1, rows, k, x)
        self.states[0] = 0
        self.begin(rows, steps, x)
        for t in range(steps):
            self.step(t)
        out = self.take("out", (rows, steps, k) if self.sequence else (rows, k), x)
        out[...] = self.states[1:].transpose(1, 0, 2) if self.sequence else self.states[steps]
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients and return the input's slope (B, T, d)."""
        state = self.parameters["state"]
        steps, rows, inputs = self._x.shape
        down, back = self.take("down", (rows, self.width), slope), self.take("recurrent", (rows, self.width), slope)
        down[...] = 0
        for t in range(steps - 1, -1, -1):
            if self.sequence:
                down += slope[:, t]
            elif t == steps - 1:
                down[...] = slope
            self.step_back(t, down)
            for columns, part in self.state_slopes():
                self.matmul(part[t], state.data[:, columns].T, out=back)
                down += back
        before = self.states[:steps].reshape(-1, self.width)
        for columns, part in self.state_slopes():
            self.matmul(before.T, part.reshape(len(before), -1), out=state.grad[:, columns])
        flat, x = self.gates.reshape(len(before), -1), self._x.reshape(len(before), -1)
        self.matmul(x.T, flat, out=self.parameters["input"].grad)
        self.sum_biases()
        self.context.finish(self)
        if not self.needs_input_slope:
            return slope
        self.matmul(flat, self.parameters["input"].data.T, out=x)
        out = self.take("back", (rows, steps, inputs), slope)
        out[...] = self._x.transpose(1, 0, 2)
        return out

    def sum_biases(self) -> None:
        """Overwrite the gradients of the biases, from the slopes that all steps have left."""
        sum_rows(self.gates.reshape(-1, self.gates.shape[-1]), self.work, self.parameters["bias"].grad)

    def over_time(self, name: str, steps: int, rows: int, numbers: int, like: Array) -> Array:
        """Return a buffer (steps, rows, numbers); the rows may vary from call to call."""
        return self.take(name, (steps * rows * numbers,), like).reshape(steps, rows, numbers)

    def multiply_state(self, t: int) -> Array:
        """Return state t times its weights, (B, G k), valid until the next call."""
        out = self.take("product", self.gates[t].shape, self.gates)
        self.matmul(self.states[t], self.parameters["state"].data, out=out)
        return out

    def begin(self, rows: int, steps: int, like: Array) -> None:
        """Make what else a pass needs; nothing, unless a layer says so."""

    @abstractmethod
    def step(self, t: int) -> None:
        """Overwrite states[t + 1] from states[t] and gates[t], which holds the inputs' part, and keep in gates[t] what backward needs."""

    @abstractmethod
    def step_back(self, t: int, down: Array) -> None:
        """Overwrite gates[t] with its slope, and down, the slope of states[t + 1], with what reaches states[t] beside the product."""

    def state_slopes(self) -> list[tuple[slice, Array]]:
        """Return (columns of the state's weights, slope (T, B, columns) of what they computed); right from a step's step_back on."""
        return [(slice(None), self.gates)]


class RNN(Recurrent):
    """The plain recurrent layer: h' = tanh(x W + h U + b).

    References:
        Elman, Finding structure in time, Cognitive Science, 1990.
    """

    blocks = 1

    def step(self, t: int) -> None:
        """Overwrite states[t + 1]."""
        self.gates[t] += self.multiply_state(t)
        namespace(self.gates).tanh(self.gates[t], out=self.states[t + 1])

    def step_back(self, t: int, down: Array) -> None:
        """Overwrite gates[t] with down (1 - h'^2), and down with zeros."""
        xp, h, slope = namespace(down), self.states[t + 1], self.gates[t]
        xp.multiply(h, h, out=slope)
        xp.subtract(1, slope, out=slope)
        slope *= down
        down[...] = 0


class LSTM(Recurrent):
    """The recurrent layer with a memory c: c' = f c + i g, h' = o tanh(c'); i, f, o are logistic and g is tanh of x W + h U + b.

    The columns stand in the order i, f, g, o; the bias of f starts at 1, so that the memory starts by keeping.

    References:
        Hochreiter and Schmidhuber, Long short-term memory, Neural Computation, 1997.
        Jozefowicz, Zaremba and Sutskever, An empirical exploration of recurrent network architectures, ICML 2015, for the bias.
    """

    blocks = 4

    @staticmethod
    def first_bias(random: np.random.Generator, shape: Shape) -> np.ndarray:
        """Return ones for the columns of f, zeros for the rest."""
        return np.repeat([0.0, 1.0, 0.0, 0.0], shape[0] // 4)

    def begin(self, rows: int, steps: int, like: Array) -> None:
        """Make the memories (T + 1, B, k) and their tanh (T, B, k)."""
        self.cells = self.over_time("cells", steps + 1, rows, self.width, like)
        self.bent = self.over_time("bent", steps, rows, self.width, like)
        self.cells[0] = 0

    def step(self, t: int) -> None:
        """Overwrite states[t + 1] and cells[t + 1]."""
        xp, k, gate = namespace(self.gates), self.width, self.gates[t]
        gate += self.multiply_state(t)
        squash(gate[:, : 2 * k])
        xp.tanh(gate[:, 2 * k : 3 * k], out=gate[:, 2 * k : 3 * k])
        squash(gate[:, 3 * k :])
        i, f, g, o = (gate[:, n * k : (n + 1) * k] for n in range(4))
        cell, bent = self.cells[t + 1], self.bent[t]
        xp.multiply(f, self.cells[t], out=cell)
        xp.multiply(i, g, out=bent)
        cell += bent
        xp.tanh(cell, out=bent)
        xp.multiply(o, bent, out=self.states[t + 1])

    def step_back(self, t: int, down: Array) -> None:
        """Overwrite gates[t] with its slope, the memory's slope by what reaches cells[t], and down with zeros."""
        xp, k, gate = namespace(down), self.width, self.gates[t]
        memory = self.take("memory", down.shape, down)
        if t == len(self.bent) - 1:
            memory[...] = 0
        slope = self.take("slope", gate.shape, gate)
        bent, cell = self.bent[t], self.cells[t]
        xp.multiply(down, bent, out=slope[:, 3 * k :])
        bent *= bent
        xp.subtract(1, bent, out=bent)
        bent *= down
        bent *= gate[:, 3 * k :]
        memory += bent
        xp.multiply(memory, gate[:, 2 * k : 3 * k], out=slope[:, :k])
        xp.multiply(memory, cell, out=slope[:, k : 2 * k])
        xp.multiply(memory, gate[:, :k], out=slope[:, 2 * k : 3 * k])
        memory *= gate[:, k : 2 * k]
        bend = self.take("bend", gate.shape, gate)
        xp.multiply(gate, gate, out=bend)
        xp.subtract(gate, bend, out=gate)  # s (1 - s), right for all but g
        xp.subtract(1, bend[:, 2 * k : 3 * k], out=gate[:, 2 * k : 3 * k])
        gate *= slope
        down[...] = 0


class GRU(Recurrent):
    """The gated recurrent layer: h' = (1 - z) n + z h, n = tanh(x W_n + b_n + r (h U_n + c)); r, z are logistic of x W + h U + b.

    The columns stand in the order r, z, n; c is the parameter state_bias (k,), as in PyTorch and cuDNN.

    References:
        Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation, EMNLP 2014.
    """

    blocks = 3

    def build(self, shape: Shape) -> Built:
        """Return (k,) or (T, k) and the parameters input (d, 3 k), state (k, 3 k), bias (3 k,) and state_bias (k,)."""
        out, parameters = super().build(shape)
        return out, parameters | {"state_bias": ((self.width,), zeros)}

    def begin(self, rows: int, steps: int, like: Array) -> None:
        """Make (T, B, k) for h U_n + c, later for its slope."""
        self.inner = self.over_time("inner", steps, rows, self.width, like)

    def step(self, t: int) -> None:
        """Overwrite states[t + 1]."""
        xp, k, gate, inner = namespace(self.gates), self.width, self.gates[t], self.inner[t]
        product = self.multiply_state(t)
        gate[:, : 2 * k] += product[:, : 2 * k]
        squash(gate[:, : 2 * k])
        xp.add(product[:, 2 * k :], self.parameters["state_bias"].data, out=inner)
        r, z, n = (gate[:, m * k : (m + 1) * k] for m in range(3))
        after = self.states[t + 1]
        xp.multiply(r, inner, out=after)
        n += after
        xp.tanh(n, out=n)
        xp.subtract(self.states[t], n, out=after)
        after *= z
        after += n

    def step_back(self, t: int, down: Array) -> None:
        """Overwrite gates[t] and inner[t] with their slopes, and down with z times itself."""
        xp, k, gate, inner = namespace(down), self.width, self.gates[t], self.inner[t]
        r, z, n = (gate[:, m * k : (m + 1) * k] for m in range(3))
        slope = self.take("slope", gate.shape, gate)
        of_r, of_z, of_n = (slope[:, m * k : (m + 1) * k] for m in range(3))
        xp.subtract(self.states[t], n, out=of_z)
        of_z *= down
        xp.subtract(1, z, out=of_n)
        of_n *= down
        down *= z
        n *= n
        xp.subtract(1, n, out=n)
        n *= of_n
        xp.multiply(n, inner, out=of_r)
        xp.multiply(n, r, out=inner)
        bend = slope[:, 2 * k :]
        for s, own in ((r, of_r), (z, of_z)):
            xp.multiply(s, s, out=bend)
            xp.subtract(s, bend, out=s)
            s *= own

    def sum_biases(self) -> None:
        """Overwrite the gradients of both biases."""
        super().sum_biases()
        sum_rows(self.inner.reshape(-1, self.width), self.work, self.parameters["state_bias"].grad)

    def state_slopes(self) -> list[tuple[slice, Array]]:
        """Return the columns of r and z with the gates' slopes, and those of n with the slope of h U_n + c."""
        gates = 2 * self.width
        return [(slice(0, gates), self.gates[..., :gates]), (slice(gates, None), self.inner)]


def squash(x: Array) -> None:
    """Overwrite x with the logistic function of x: half of one and tanh(x / 2), which numpy computes by wide instructions."""
    x *= 0.5
    namespace(x).tanh(x, out=x)
    x *= 0.5
    x += 0.5
