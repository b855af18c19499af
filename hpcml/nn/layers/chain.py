"""Layers in a row become one tree: shapes are found, misfits are drawn, parameters get the names of their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpcml.arrays import Array
from hpcml.errors import ShapeError
from hpcml.nn.layers.layer import Layer, Running, Shape, Tied
from hpcml.nn.values import is_whole


def declare_chain(layers: Sequence[Layer], shape: Shape) -> Shape:
    """Build layers one after the other for input rows of this shape and return the shape of an output row.

    Raises:
        ShapeError: if a layer cannot take what the one before gives; the message draws the layers with their shapes.
    """
    if not layers:
        raise ShapeError("a chain needs at least one layer")
    require_sizes("rows have", shape)
    drawn, before = [f"input {shape}"], True
    for number, layer in enumerate(layers):
        require_layer(f"layer {number}", layer)
        name = type(layer).__name__
        try:
            shape = _declared(layer, shape)
        except ShapeError as error:
            first, *inside = str(error).splitlines()
            lines = [first, *drawn, f"{number} {name} <- here", *inside]
            raise ShapeError(f"layer {number} ({name}): " + "\n  ".join(lines)) from None
        drawn.append(f"{number} {name} -> {shape}")
        layer.may_overwrite_input, before = not before, layer.keeps_output
    return shape


def _declared(layer: Layer, shape: Shape) -> Shape:
    """Return the shape of an output row of a layer that is built now, which has nothing of size 0 or less."""
    out, name = layer.declare(shape), type(layer).__name__
    require_sizes(f"{name} gives", out)
    for key, value in layer.declared.items():
        if isinstance(value, Tied):
            continue
        size, init = (value.shape, value.init) if isinstance(value, Running) else value
        require_sizes(f"{name} has a parameter {key!r} of", size)
        if not callable(init):
            hint = "give a function of random numbers and a shape, such as normal(0.02); the number of inputs it sees itself"
            raise ShapeError(f"{name} would take the first values of {key!r} from {init!r}; {hint}")
    return out


def require_layer(what: str, layer: object) -> None:
    """Raise ShapeError, saying what to write, unless this is a layer."""
    if isinstance(layer, Layer):
        if not hasattr(layer, "context"):
            raise ShapeError(f"{what} is a {type(layer).__name__} whose __init__ leaves out super().__init__(); call it first")
        return
    hint = f"write {layer.__name__}(...)" if isinstance(layer, type) else "give a Layer, such as ReLU()"
    if isinstance(layer, (list, tuple)):
        hint = "give the layers one after the other, or write Sequential(*layers)"
    raise ShapeError(f"{what} is {layer!r}, not a layer; {hint}")


def require_sizes(what: str, shape: Shape) -> None:
    """Raise unless each size of a shape is a whole number of at least 1: products and draws of others fail much later, or silently.

    Raises:
        ShapeError: if one is not.
    """
    if not all(is_whole(size) and size > 0 for size in shape):
        raise ShapeError(f"{what} the shape {tuple(shape)}; each size is a whole number of at least 1")


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
