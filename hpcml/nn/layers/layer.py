"""What a layer is: shapes and parameters when built, then forward and backward with its own buffers.

A user's own layer subclasses Layer, says its output shape and parameters in `build`, and writes two methods.
Letters: B rows; a shape is that of one row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcml.arrays import Array
from hpcml.nn.arena import Parameter
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
    return random.standard_normal(shape) * np.sqrt(2.0 / shape[0])


class Layer(ABC):
    """One step of a model from rows to rows."""

    needs_input_slope: bool = True
    """False for the first layer with parameters: nobody reads what its backward would return."""

    def __init__(self) -> None:
        """Make an unbuilt layer with an empty workspace."""
        self.parameters: dict[str, Parameter] = {}
        self.work = Workspace()

    @abstractmethod
    def build(self, shape: Shape) -> tuple[Shape, dict[str, tuple[Shape, Init]]]:
        """Return (shape of an output row, name -> (shape, init) of each parameter) for input rows of this shape.

        Raises:
            ShapeError: if the layer cannot take such rows.
        """

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return the outputs for B input rows; both may be kept until backward."""

    @abstractmethod
    def backward(self, slope: Array) -> Array:
        """Overwrite each parameter's whole gradient and return the slope with respect to the input; may overwrite slope."""

    def take(self, name: str, shape: Shape, like: Array, dtype: Any = None) -> Array:
        """Return this layer's buffer of that name; see Workspace.take."""
        return self.work.take(name, shape, like, dtype)
