"""The flat arena: one vector of parameters, one of gradients with a tail, and named views of both.

Letters: n parameters. The gradient vector has n + len(TAIL) elements; the tail carries the sums of a step
(weight, loss, rows, hits, faults) so that they ride in the same reduction as the gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from hpcml.arrays import Array, Device, aligned
from hpcml.errors import ShapeError


class Tail(IntEnum):
    """What the last elements of a gradient vector mean; each is a sum over the rows or workers of a step."""

    WEIGHT = 0
    LOSS = 1
    ROWS = 2
    HITS = 3
    FAULTS = 4


class Parameter:
    """A named part of the arena; ``data`` and ``grad`` are views of its flat vectors, in the parameter's shape."""

    __slots__ = ("data", "grad", "name", "shape", "span")

    def __init__(self, name: str, shape: tuple[int, ...], span: slice) -> None:
        """Name a span of the arena; the arena sets the views."""
        self.name, self.shape, self.span = name, shape, span
        self.data: Array = None
        self.grad: Array = None


class Arena:
    """All parameters of a model in one vector, all gradients in another."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32, device: Device | None = None) -> None:
        """Lay out the named shapes one after the other, in order, and allocate both vectors, zeroed.

        Args:
            shapes: parameter names and shapes, first layers first.
            dtype: float32 or float64.
            device: where the vectors live; the CPU when left out.
        """
        self.dtype = np.dtype(dtype)
        self.device = device or Device()
        self._parameters: dict[str, Parameter] = {}
        start = 0
        for name, shape in shapes.items():
            stop = start + int(np.prod(shape, dtype=np.int64))
            self._parameters[name] = Parameter(name, tuple(shape), slice(start, stop))
            start = stop
        self.n = start
        self.data: Array = None
        self.grad: Array = None
        self.point(data=self.vector(), grad=self.vector(tail=True))

    @property
    def length(self) -> int:
        """Elements of a gradient vector: n and the tail."""
        return self.n + len(Tail)

    @property
    def tail(self) -> Array:
        """The last elements of the gradient vector, indexed by Tail."""
        return self.grad[self.n :]

    def vector(self, tail: bool = False) -> Array:
        """Return a new zeroed vector like data, or with `tail` like grad."""
        return self.device.place(aligned(self.length if tail else self.n, self.dtype))

    def point(self, data: Array | None = None, grad: Array | None = None) -> None:
        """Let every parameter view these vectors from now on; costs nothing when they are the current ones.

        Args:
            data: (n,) parameters.
            grad: (n + tail,) gradients.

        Raises:
            ShapeError: if a vector has another length.
        """
        if data is not None and data is not self.data:
            self.data = self._show("data", data, self.n)
        if grad is not None and grad is not self.grad:
            self.grad = self._show("grad", grad, self.length)

    def _show(self, side: str, vector: Array, length: int) -> Array:
        if vector.shape != (length,) or vector.dtype != self.dtype:
            raise ShapeError(f"arena {side} has shape ({length},) and dtype {self.dtype}; got {vector.shape} and {vector.dtype}")
        for p in self:
            setattr(p, side, vector[p.span].reshape(p.shape))
        return vector

    def __iter__(self) -> Any:
        """Iterate over the parameters in the order of the layout."""
        return iter(self._parameters.values())

    def view(self, name: str) -> Parameter:
        """Return the parameter of this name."""
        if name not in self._parameters:
            raise ShapeError(f"no parameter {name!r}; the arena has {', '.join(self._parameters)}")
        return self._parameters[name]

    def parts(self) -> list[slice]:
        """Return the span of each parameter, in order."""
        return [p.span for p in self]

    def buckets(self, nbytes: int) -> list[slice]:
        """Cut the parameters into runs of about nbytes, last layers first: the order in which backward completes them.

        Returns:
            Consecutive spans, from the end of the vector to its start; a parameter larger than nbytes stands alone.
        """
        cut: list[slice] = []
        stop = start = self.n
        for p in reversed(list(self)):
            if start < stop and (stop - p.span.start) * self.dtype.itemsize > nbytes:
                cut.append(slice(start, stop))
                stop = start
            start = p.span.start
        return [*cut, slice(start, stop)] if stop > start else cut

    def layout(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return (name, shape) of each parameter, in order."""
        return [(p.name, p.shape) for p in self]

    def fingerprint(self) -> str:
        """Return a short text that two arenas share exactly when their layouts and dtypes are equal."""
        return hashlib.sha256(repr((self.layout(), self.dtype.str)).encode()).hexdigest()[:16]
