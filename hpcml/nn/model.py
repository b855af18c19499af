"""Layers in a row over one flat arena."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcml.arrays import Array, Device, stream, to_host
from hpcml.errors import ShapeError
from hpcml.nn.arena import Arena
from hpcml.nn.layers.layer import Init, Layer, Shape

Ready = Callable[[slice], None]


def ignore(span: slice) -> None:
    """Do nothing with the news that a span of the gradient is final."""


class Model:
    """A chain of layers whose parameters live in one arena, first layers first.

    ``forward`` maps (B, *shape) to (B, *outputs); ``backward`` overwrites the whole gradient, last layers first.
    """

    def __init__(
        self, layers: Sequence[Layer], shape: Shape, *, seed: int = 0, dtype: Any = np.float32, device: Device | None = None
    ) -> None:
        """Build the layers for input rows of `shape` and fill the parameters from `seed`.

        Args:
            layers: at least one layer; each is used by one model only.
            shape: of one input row, such as (64,).
            seed: the first values are the same for the same seed, whatever the device.
            dtype: float32 or float64.
            device: where the arena lives; the CPU when left out.

        Raises:
            ShapeError: if a layer cannot take what the one before gives; the message draws the layers with their shapes.
        """
        self.layers, self.shape = list(layers), tuple(shape)
        self.outputs, inits = _build(self.layers, self.shape)
        self.arena = Arena({name: size for name, (size, _) in inits.items()}, dtype, device)
        for number, layer in enumerate(self.layers):
            prefix = f"{number}.{type(layer).__name__.lower()}."
            layer.parameters = {name[len(prefix) :]: self.arena.view(name) for name in inits if name.startswith(prefix)}
        self._first = next((k for k, layer in enumerate(self.layers) if layer.parameters), 0)
        self.layers[self._first].needs_input_slope = False
        self.initialise(seed, {name: init for name, (_, init) in inits.items()})

    def initialise(self, seed: int, inits: dict[str, Init]) -> None:
        """Overwrite the parameters with their first values for this seed."""
        first = np.empty(self.arena.n, self.arena.dtype)
        for number, p in enumerate(self.arena):
            first[p.span] = inits[p.name](stream(seed, "init", number), p.shape).reshape(-1)
        self.arena.data[:] = self.arena.device.place(first)

    def move(self, device: Device) -> None:
        """Move the arena to a device; layers follow their input."""
        arena = self.arena
        if arena.device == device:
            return
        data, arena.device = to_host(arena.data), device
        arena.point(data=device.place(data), grad=arena.vector(tail=True))

    def describe(self) -> str:
        """Return the layers with their parameter shapes in one line."""
        return "; ".join(f"{p.name} {p.shape}" for p in self.arena)

    def forward(self, x: Array) -> Array:
        """Return the predictions for B rows; they are overwritten by the next forward."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, slope: Array, ready: Ready = ignore) -> None:
        """Overwrite the arena's gradient from the slope of the predictions, which may be overwritten too.

        Args:
            slope: (B, *outputs).
            ready: called with each layer's span of the gradient as soon as it is final, last layers first.
        """
        for layer in reversed(self.layers[self._first :]):
            slope = layer.backward(slope)
            own = list(layer.parameters.values())
            if own:
                ready(slice(own[0].span.start, own[-1].span.stop))


def _build(layers: list[Layer], shape: Shape) -> tuple[Shape, dict[str, tuple[Shape, Init]]]:
    drawn = [f"input {shape}"]
    inits: dict[str, tuple[Shape, Init]] = {}
    if not layers:
        raise ShapeError("a model needs at least one layer")
    for number, layer in enumerate(layers):
        name = type(layer).__name__
        try:
            shape, own = layer.build(shape)
        except ShapeError as error:
            raise ShapeError(f"layer {number} ({name}): {error}\n  " + "\n  ".join([*drawn, f"{number} {name} <- here"])) from None
        drawn.append(f"{number} {name} -> {shape}")
        inits.update({f"{number}.{name.lower()}.{key}": value for key, value in own.items()})
    return shape, inits
