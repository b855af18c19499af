"""An ONNX graph while it grows: nodes, constants, and each of them once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.nn.layers.layer import Layer


class Graph:
    """Nodes and constants of an ONNX graph; what is added twice is there once, and keeps its name."""

    def __init__(self, library: Any, dtype: Any, prefix: str = "") -> None:
        """Begin with nothing, in numbers of `dtype`; `library` is the package onnx, `prefix` starts all names of a graph inside another."""
        self.onnx, self.dtype, self.prefix = library, np.dtype(dtype), prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.kept = ""
        """The value that says which positions hold a token, not padding, (B, T); none where all do."""
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, operator: str, *inputs: str, output: int = 0, **attributes: Any) -> str:
        """Add a node and return the name of its output, or of another one than the first."""
        key = (operator, inputs, output, repr(sorted(attributes.items())))
        if key not in self._known:
            name = self._known[key] = f"{self.prefix}{operator.lower()}_{len(self.nodes)}"
            unread = [f"{name}_{earlier}" for earlier in range(output)]
            self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [*unread, name], name, **attributes))
        return self._known[key]

    def constant(self, name: str, array: Any) -> str:
        """Add an array, of any device, under this name made single, and return the name."""
        held = np.ascontiguousarray(to_host(array))
        key = (name, held.shape, held.dtype.str, hashlib.sha256(held.data).digest())
        if key not in self._known:
            self._known[key] = f"{self.prefix}{name}_{len(self.constants)}"
            self.constants.append(self.onnx.numpy_helper.from_array(held, self._known[key]))
        return self._known[key]

    def parameter(self, layer: Layer, key: str) -> str:
        """Add a layer's parameter, shared or its own, and return its name."""
        return self.constant(layer.parameters[key].name, layer.parameters[key].data)

    def number(self, value: float) -> str:
        """Add one number of the model's dtype and return its name."""
        return self.constant("number", np.array(value, self.dtype))

    def whole(self, *values: int) -> str:
        """Add a vector of whole numbers, such as axes or a shape, and return its name."""
        return self.constant("whole", np.array(values, np.int64))

    def part(self, x: str, axis: int, first: int, stop: int) -> str:
        """Return the name of x from `first` to `stop` on an axis."""
        return self.add("Slice", x, self.whole(first), self.whole(stop), self.whole(axis))

    def shaped(self, x: str, *shape: int) -> str:
        """Return the name of x with rows of this shape; there are as many of them as before, which is what a length of 0 means."""
        return self.add("Reshape", x, self.whole(0, *shape))
