"""Layers in a row become one tree: shapes are found, misfits are drawn, parameters get the names of their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpcml.arrays import Array
from hpcml.errors import ShapeError
from hpcml.nn.layers.layer import Layer, Shape


def declare_chain(layers: Sequence[Layer], shape: Shape) -> Shape:
    """Build layers one after the other for input rows of this shape and return the shape of an output row.

    Raises:
        ShapeError: if a layer cannot take what the one before gives; the message draws the layers with their shapes.
    """
    drawn, before = [f"input {shape}"], True
    for number, layer in enumerate(layers):
        name = type(layer).__name__
        try:
            shape = layer.declare(shape)
        except ShapeError as error:
            first, *inside = str(error).splitlines()
            lines = [first, *drawn, f"{number} {name} <- here", *inside]
            raise ShapeError(f"layer {number} ({name}): " + "\n  ".join(lines)) from None
        drawn.append(f"{number} {name} -> {shape}")
        layer.may_overwrite_input, before = not before, layer.keeps_output
    return shape


def forward_chain(layers: Sequence[Layer], x: Array) -> Array:
    """Return what the layers make of x, one after the other."""
    for layer in layers:
        x = layer.forward(x)
    return x


def backward_chain(layers: Sequence[Layer], slope: Array) -> Array:
    """Return the slope of the input, last layer first; each layer is finished as soon as its backward is done."""
    for layer in reversed(layers):
        slope = layer.backward(slope)
        layer.context.finish(layer)
    return slope


def walk(named: Sequence[tuple[str, Layer]], prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield (path, layer) of each layer and of all layers inside it, such as ("2.residual.0.dense.", layer)."""
    for name, layer in named:
        path = f"{prefix}{name}.{type(layer).__name__.lower()}."
        yield path, layer
        yield from walk(layer.children, path)


def numbered(layers: Sequence[Layer]) -> list[tuple[str, Layer]]:
    """Return the layers with their positions as names."""
    return [(str(number), layer) for number, layer in enumerate(layers)]
