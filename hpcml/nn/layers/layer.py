"""What a layer is: shapes and parameters when built, then forward and backward with its own buffers.

A user's own layer subclasses Layer, says its output shape and parameters in `build`, and writes two methods.
Layers read ``self.context`` (training or evaluation, and seeded random numbers by ``self.random``); a composite holds others in
``children`` and says ``self.context.finish(child)`` after each child's backward;
a layer may say it of itself earlier, as soon as its gradients are written.
Letters: B rows; a shape is that of one row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hpcml.arrays import Array, fused, namespace, products
from hpcml.errors import ShapeError
from hpcml.nn.arena import Parameter
from hpcml.nn.context import Context
from hpcml.nn.workspace import Workspace

Shape = tuple[int, ...]
Init = Callable[[np.random.Generator, Shape], np.ndarray]
"""(random numbers, shape) -> the first values of a parameter."""


def zeros(random: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return zeros."""
    return np.zeros(shape)


def he_normal(random: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return normal numbers of variance 2 / inputs, for layers before a ReLU.

    References:
        He, Zhang, Ren and Sun, Delving deep into rectifiers, ICCV 2015.
    """
    return random.standard_normal(shape) * np.sqrt(2.0 / math.prod(shape[:-1]))


def ones(random: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return ones."""
    return np.ones(shape)


def normal(deviation: float) -> Init:
    """Return an init of normal numbers around zero."""
    return lambda random, shape: random.standard_normal(shape) * deviation


@dataclass(frozen=True, slots=True)
class Running:
    """A statistic that a layer declares beside its parameters: no optimizer moves it.

    Forward, when training, overwrites its gradient with context.weigh(rows) * rate * (running - the batch's statistic); after
    the mean over all workers that is taken from it, so rate is 1 - momentum.
    """

    shape: Shape
    init: Init


@dataclass(frozen=True, slots=True)
class Tied:
    """A parameter that a layer shares with another layer of the model, whose it is: gradients add."""

    layer: Layer
    name: str


Declared: TypeAlias = "tuple[Shape, Init] | Running | Tied"
"""What a parameter is when a layer is built: trained, (shape, init); Running; or Tied to another layer's."""

Built: TypeAlias = "tuple[Shape, dict[str, Any]]"
"""(shape of an output row, name -> Declared of each of the layer's own parameters)."""


class Layer(ABC):
    """One step of a model from rows to rows."""

    needs_input_slope: bool = True
    """False for the first layer with parameters: nobody reads what its backward would return."""

    keeps_output: bool = True
    """False where forward returns a contiguous buffer of this layer, never its input, and backward does not read what is there."""

    takes_tokens: bool = False
    """True where input rows may be whole numbers of any dtype, not only numbers of the model's own."""

    may_overwrite_input: bool = False
    """True where the layer before does not keep its output, so that this one may use its memory."""

    exchanged: int = 0
    """Numbers that a built layer sums over all workers by ``self.context.meet``, once in forward and once in backward."""

    def __init__(self) -> None:
        """Make an unbuilt layer with an empty workspace."""
        self.parameters: dict[str, Parameter] = {}
        self.declared: dict[str, Declared] = {}
        self.in_shape: Shape = ()
        self.out_shape: Shape = ()
        self.work = Workspace()
        self.context, self.number = Context(), 0

    @property
    def children(self) -> list[tuple[str, Layer]]:
        """Return the layers inside this one, each with its name, in the order of their forward; none unless it is a composite."""
        return []

    def declare(self, shape: Shape) -> Shape:
        """Build the layer for input rows of this shape, keep both shapes and what it declared, and return the shape of an output row."""
        self.in_shape = shape
        built = self.build(shape)
        if not (isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], tuple) and isinstance(built[1], dict)):
            text = f"{type(self).__name__}.build gives {built!r}"
            raise ShapeError(f"{text}; return the shape of an output row and the parameters, such as (shape, {{}})")
        self.out_shape, self.declared = built
        return self.out_shape

    @abstractmethod
    def build(self, shape: Shape) -> Built:
        """Return (shape of an output row, name -> (shape, init), Running or Tied of each parameter) for input rows of this shape.

        Raises:
            ShapeError: if the layer cannot take such rows.
        """

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return the outputs for B input rows; both may be kept until backward."""

    @abstractmethod
    def backward(self, slope: Array) -> Array:
        """Overwrite each parameter's whole gradient and return the slope with respect to the input; may overwrite slope.

        What it returns lasts until the backward of another layer.
        """

    def random(self, purpose: str) -> np.random.Generator:
        """Return this layer's random numbers of this pass: of seed, step, worker and layer, not of ranks."""
        return self.context.random(purpose, self.number)

    def take(self, name: str, shape: Shape, like: Array, dtype: Any = None) -> Array:
        """Return this layer's buffer of that name; see Workspace.take."""
        return self.work.take(name, shape, like, dtype)

    def scratch(self, name: str, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
        """Return memory that all layers share, for this call of forward or backward only; see Scratch.take."""
        return self.context.scratch.take(name, shape, like, dtype)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Overwrite out with the product of a and b; when training, of what the model's precision rounds them to."""
        context = self.context
        precision, multiply, scratch = context.precision if context.training else None, context.multiply, context.scratch
        if precision is not None:
            precision.matmul(a, b, out, scratch, multiply)
        elif multiply is not None and products.fits(a, b, out):
            products.product(scratch.whole("left", a), scratch.whole("right", b), out, multiply)
        else:
            namespace(a).matmul(a, b, out=out)

    def fast(self, *arrays: Array) -> Any:
        """Return the functions of `arrays/fast.py` if the model is to use them and they take all of these arrays, else None."""
        fits = all(type(a) is np.ndarray and a.dtype == np.float32 and a.flags.carray for a in arrays)
        return self.context.fast if fits else None

    def kernels(self, *arrays: Array) -> Any:
        """Return the functions of `arrays/fused.py` if they take all of these arrays, else None."""
        return fused if fused.fits(*arrays) else None

    def over_input(self, x: Array) -> Array:
        """Return where outputs of the input's shape go: over the input if nobody needs it, else a buffer of this layer."""
        return x if self.may_overwrite_input else self.take("out", x.shape, x)
