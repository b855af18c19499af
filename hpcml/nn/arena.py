"""The flat arena: one vector of parameters, one of gradients with a tail, and named views of both.

Letters: n parameters, the first `trained` of them moved by the optimizer, the rest running statistics. The gradient vector has
n + len(TAIL) elements; the tail carries the sums of a step (weight, loss, rows, hits, faults) so that they ride in the same reduction.
The "gradient" of a running statistic is what is to be taken from it, times the rows' weight: it rides along too, so that statistics
are exact on any number of ranks, stand in every checkpoint, and are averaged where models are.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from hpcml.arrays import Array, Device, aligned, to_host
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

    __slots__ = ("beside", "data", "grad", "name", "running", "shape", "span")

    def __init__(self, name: str, shape: tuple[int, ...], span: slice, *, running: bool = False, beside: bool = False) -> None:
        """Name a span of the arena; the arena sets the views.

        Args:
            name: path of the layer and the parameter's own name.
            shape: of both views.
            span: where it lies.
            running: whether it is a running statistic, which no optimizer moves.
            beside: whether its gradient lies in memory of its own, to be added to that of the arena.
        """
        self.name, self.shape, self.span = name, shape, span
        self.running, self.beside = running, beside
        self.data: Array = None
        self.grad: Array = None


class Arena:
    """All parameters of a model in one vector, all gradients in another."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: Any = np.float32,
        device: Device | None = None,
        running: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Lay out the named shapes one after the other, in order, and allocate both vectors, zeroed.

        Args:
            shapes: parameter names and shapes, first layers first.
            dtype: float16, float32 or float64.
            device: where the vectors live; the CPU when left out.
            running: names and shapes of running statistics, which come behind all parameters.

        Raises:
            ShapeError: if the dtype is none of them.
        """
        self.dtype = _known(dtype)
        self.device = device or Device()
        self._parameters: dict[str, Parameter] = {}
        self._beside: list[Parameter] = []
        self.trained = self._lay(shapes, 0, running=False)
        self.n = self._lay(running or {}, self.trained, running=True)
        self.data: Array = None
        self.grad: Array = None
        self.point(data=self.vector(), grad=self.vector(tail=True))

    def _lay(self, shapes: Mapping[str, tuple[int, ...]], start: int, running: bool) -> int:
        for name, shape in shapes.items():
            stop = start + int(np.prod(shape, dtype=np.int64))
            self._parameters[name] = Parameter(name, tuple(shape), slice(start, stop), running=running)
            start = stop
        return start

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
        if side == "data":
            for p in self._beside:
                p.data = vector[p.span].reshape(p.shape)
        return vector

    def beside(self, name: str) -> Parameter:
        """Return another view of a parameter, for a layer that shares it: the same data, a gradient in memory of its own."""
        of = self.view(name)
        p = Parameter(name, of.shape, of.span, beside=True)
        p.data, p.grad = of.data, self.device.place(aligned(of.shape, self.dtype))
        self._beside.append(p)
        return p

    def move(self, device: Device) -> None:
        """Move all vectors to a device; gradients start at zero there."""
        data, self.device = to_host(self.data), device
        self.point(data=device.place(data), grad=self.vector(tail=True))
        for p in self._beside:
            p.grad = device.place(aligned(p.shape, self.dtype))

    def __iter__(self) -> Any:
        """Iterate over the parameters in the order of the layout."""
        return iter(self._parameters.values())

    def view(self, name: str) -> Parameter:
        """Return the parameter of this name."""
        if name not in self._parameters:
            raise ShapeError(f"no parameter {name!r}; the arena has {', '.join(self._parameters)}")
        return self._parameters[name]

    def parts(self) -> list[slice]:
        """Return the span of each trained parameter, in order."""
        return [p.span for p in self if not p.running]

    def buckets(self, nbytes: int) -> list[slice]:
        """Cut the parameters into runs of about nbytes, last layers first: the order in which backward completes them.

        Returns:
            Consecutive spans, from the end of the vector to its start, each as soon as it has nbytes.
        """
        cut: list[slice] = []
        stop = self.n
        for p in reversed(list(self)):
            if (stop - p.span.start) * self.dtype.itemsize >= nbytes:
                cut.append(slice(p.span.start, stop))
                stop = p.span.start
        return [*cut, slice(0, stop)] if stop else cut

    def layout(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return (name, shape) of each parameter, in order."""
        return [(p.name, p.shape) for p in self]

    def fingerprint(self) -> str:
        """Return a short text that two arenas share exactly when their layouts and dtypes are equal."""
        told = (self.layout(), self.dtype.str) if self.trained == self.n else (self.layout(), self.dtype.str, self.trained)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


DTYPES = ("float16", "float32", "float64")


def _known(dtype: Any) -> np.dtype[Any]:
    """Return the dtype, or raise ShapeError with the near one."""
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = None
    if known is None or known.name not in DTYPES:
        shown = dtype if isinstance(dtype, str) or known is None else known.name
        close = difflib.get_close_matches(str(shown), DTYPES, n=1, cutoff=0.5)
        near = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(DTYPES)}"
        raise ShapeError(f"a model's dtype cannot be {shown!r}; {near}")
    return known
