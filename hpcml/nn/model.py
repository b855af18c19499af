"""Layers in a row over one flat arena."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any

import numpy as np

from hpcml.arrays import Array, Device, namespace, stream
from hpcml.errors import ConfigError, ShapeError
from hpcml.nn import values
from hpcml.nn.announcer import Announcer, Ready
from hpcml.nn.arena import Arena
from hpcml.nn.context import Context
from hpcml.nn.layers.chain import backward_chain, declare_chain, forward_chain, numbered, walk
from hpcml.nn.layers.composite import Sequential
from hpcml.nn.layers.layer import Init, Layer, Running, Shape, Tied
from hpcml.nn.layers.recompute import Recompute
from hpcml.nn.precision import Precision

MOST_ROWS, MOST_NUMBERS = 256, 1 << 26
"""Rows in one forward pass of an evaluation, and numbers in all layers' outputs for them."""


def ignore(span: slice) -> None:
    """Do nothing with the news that a span of the gradient is final."""


class Model:
    """A chain of layers whose parameters live in one arena, first layers first.

    ``forward`` maps (B, *shape) to (B, *outputs); ``backward`` overwrites the whole gradient, last layers first.
    ``context`` says whether a pass is one of training; a new model is in evaluation. ``rows_at_once`` rows go through it at a time
    in evaluation: they are part of the definition of the result, since the bits of a product depend on its shape.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        shape: Shape,
        *,
        seed: int = 0,
        dtype: Any = np.float32,
        device: Device | None = None,
        filled: bool = True,
    ) -> None:
        """Build the layers for input rows of `shape` and fill the parameters from `seed`.

        Args:
            layers: at least one layer; each is used by one model only, once.
            shape: of one input row, such as (64,).
            seed: the first values are the same for the same seed, whatever the device.
            dtype: float16, float32 or float64.
            device: where the arena lives; the CPU when left out.
            filled: False leaves the parameters zero, which costs nothing: for a model that is only asked for its shapes.

        Raises:
            ShapeError: if a layer cannot take what the one before gives; the message draws the layers with their shapes.
        """
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise ShapeError(f"a model takes a list of layers, got {layers!r}; write [layer, ...]")
        if not isinstance(shape, (tuple, list)):
            raise ShapeError(f"a model's rows have the shape {shape!r}, not a tuple; write ({shape},)")
        if not isinstance(device, (Device, NoneType)):
            raise ShapeError(f"a model's device is {device!r}; leave it out, or give a device, such as hpcml.arrays.Device(0)")
        self.layers, self.shape, self.context = list(layers), tuple(shape), Context()
        self.outputs = declare_chain(self.layers, self.shape)
        tree = dict(walk(numbered(self.layers)))
        _require_single(tree)
        trained, running = _declared(tree)
        self._tokens, self._rows = any(layer.takes_tokens for layer in tree.values()), -1
        self.rows_at_once = _rows_at_once(tree.values())
        self.arena = Arena(
            {name: size for name, (size, _) in trained.items()}, dtype, device, {name: s.shape for name, s in running.items()}
        )
        _bind(tree, self.arena, self.context)
        self._announcer = Announcer(self.arena, tree.values())
        self.context.finish = self._announcer.finish
        self._first = _drop_input_slope(self.layers)
        if filled:
            self.initialise(seed, {name: init for name, (_, init) in trained.items()} | {name: s.init for name, s in running.items()})

    def initialise(self, seed: int, inits: dict[str, Init]) -> None:
        """Overwrite the parameters with their first values for this seed."""
        values.whole("a model's seed", seed, 0)
        first = np.empty(self.arena.n, self.arena.dtype)
        for number, p in enumerate(self.arena):
            first[p.span] = inits[p.name](stream(seed, "init", number), p.shape).reshape(-1)
        self.arena.data[:] = self.arena.device.place(first)

    def move(self, device: Device) -> None:
        """Move the arena to a device; layers follow their input."""
        if self.arena.device != device:
            self.arena.move(device)

    def fuse(self) -> None:
        """Use the steps of layers that numba fuses, on the CPU in float32; numbers then differ from numpy's in the last digits.

        The first time on a machine they are compiled, for a quarter of a minute.

        Raises:
            ConfigError: if numba is not installed.
        """
        self.context.fast = load_fused()

    def round(self, precision: Precision) -> None:
        """Round the operands of products in training to 16 bits; parameters and all else stay float32.

        Raises:
            ShapeError: for what is no precision, such as a name.
            ConfigError: if the parameters are not float32, or steps are fused, whose products are not rounded.
        """
        if not isinstance(precision, Precision):
            raise ShapeError(f"products are rounded to {precision!r}, which is no precision; give hpcml.nn.BFLOAT16 or FLOAT16")
        if self.arena.dtype != np.float32 or self.context.fast is not None:
            what = "fused steps do not round" if self.context.fast is not None else f"the parameters are {self.arena.dtype}"
            text = f'train.precision = "{precision.name}" rounds what is multiplied of float32 numbers, but {what}'
            raise ConfigError(f'{text}; set model.dtype = "float32" and train.kernels = "numpy"')
        self.context.precision = precision

    def describe(self) -> str:
        """Return the layers with their parameter shapes in one line."""
        return "; ".join(f"{p.name} {p.shape}" for p in self.arena)

    def forward(self, x: Array) -> Array:
        """Return the predictions for B rows; they are overwritten by the next forward.

        Raises:
            ShapeError: if the rows have another shape than the model's, which numpy might stretch without a word, or another dtype.
        """
        values.array("the model's rows", x, "fiu" if self._tokens else "f")
        if not self._tokens and x.dtype != self.arena.dtype:
            raise ShapeError(f"the model's rows are {self.arena.dtype}, got {x.dtype}; write x.astype({self.arena.dtype.name!r})")
        if x.shape[1:] != self.shape or not x.shape:
            raise ShapeError(f"the model takes rows (B, {', '.join(map(str, self.shape))}), got an array of shape {x.shape}")
        self._rows = len(x)
        return forward_chain(self.layers, x)

    def backward(self, slope: Array, ready: Ready = ignore) -> None:
        """Overwrite the arena's gradient from the slope of the predictions, which may be overwritten too.

        Args:
            slope: (B, *outputs).
            ready: called with each span of the gradient as soon as it is final, from the end of the vector to its start.

        Raises:
            ShapeError: unless the slope is that of the predictions of the last forward, in shape and dtype.
        """
        values.array("the predictions' slope", slope)
        if slope.shape != (self._rows, *self.outputs) or slope.dtype != self.arena.dtype:
            last = f"{(self._rows, *self.outputs)} {self.arena.dtype}" if self._rows >= 0 else "none, since there was no forward yet"
            raise ShapeError(f"the predictions' slope is {slope.shape} {slope.dtype}, the last predictions are {last}")
        self._announcer.begin(ready)
        backward_chain(self.layers[self._first :], slope)

    def first_not_finite(self, x: Array) -> str | None:
        """Return the path of the first layer in whose output a number is not finite for these rows, or None; waits for a device."""
        found: list[str] = []
        leaves = [(path, layer) for path, layer in walk(numbered(self.layers)) if not layer.children]
        for path, layer in leaves:
            layer.forward = _watched(layer.forward, path[:-1], found)  # type: ignore[assignment, method-assign]
        try:
            self.forward(x)
        finally:
            for _, layer in leaves:
                del layer.forward
        return found[0] if found else None


def load_fused() -> Any:
    """Return the functions of `arrays/fast.py`, compiled now or by an earlier process of this machine.

    Raises:
        ConfigError: if numba is not installed.
    """
    try:
        from hpcml.arrays import fast
    except ImportError as error:
        text = f"fused steps need the package numba ({error}): pip install 'hpcml[fast]'"
        raise ConfigError(f'{text}, or leave train.kernels at "numpy"') from error
    return fast


def _watched(forward: Callable[[Array], Array], path: str, found: list[str]) -> Callable[[Array], Array]:
    """Return a forward that notes its path if its output is not finite."""

    def run(x: Array) -> Array:
        out = forward(x)
        if not found and not bool(namespace(out).isfinite(out).all()):
            found.append(path)
        return out

    return run


def _rows_at_once(layers: Iterable[Layer]) -> int:
    """Return how many rows an evaluation gives to one forward: a power of two whose activations stay small."""
    row = sum(math.prod(layer.out_shape) for layer in layers)
    return max(1, min(MOST_ROWS, 1 << (MOST_NUMBERS // max(1, row)).bit_length() - 1 if row <= MOST_NUMBERS else 1))


def _require_single(tree: dict[str, Layer]) -> None:
    seen: dict[int, str] = {}
    for path, layer in tree.items():
        if id(layer) in seen:
            raise ShapeError(f"{path[:-1]} is the layer {seen[id(layer)]} again; a layer stands once, share weights by Tied")
        if layer.context.taken:
            raise ShapeError(f"{path[:-1]} is a layer of another model, which would lose its parameters; make a new one")
        seen[id(layer)] = path[:-1]


def _declared(tree: dict[str, Layer]) -> tuple[dict[str, tuple[Shape, Init]], dict[str, Running]]:
    """Return path -> (shape, init) of all trained parameters, and the running statistics by path."""
    trained: dict[str, tuple[Shape, Init]] = {}
    running: dict[str, Running] = {}
    for path, layer in tree.items():
        for key, value in layer.declared.items():
            if isinstance(value, Running):
                running[path + key] = value
            elif not isinstance(value, Tied):
                trained[path + key] = value
    return trained, running


def _bind(tree: dict[str, Layer], arena: Arena, context: Context) -> None:
    """Give each layer its views, its number and the context; of a parameter's users the last writes straight into the arena."""
    places = {id(layer): path for path, layer in tree.items()}
    names: dict[int, dict[str, str]] = {}
    last: dict[str, int] = {}
    # A Recompute draws nothing and takes no number: noise inside it is that of the plain chain.
    drawing = {path: number for number, path in enumerate(path for path, layer in tree.items() if not isinstance(layer, Recompute))}
    for number, (path, layer) in enumerate(tree.items()):
        layer.context, layer.number = context, drawing.get(path, 0)
        names[number] = {key: _owner(value, path + key, places) for key, value in layer.declared.items()}
        last |= dict.fromkeys(names[number].values(), number)
    for number, layer in enumerate(tree.values()):
        layer.parameters = {key: arena.view(name) if last[name] == number else arena.beside(name) for key, name in names[number].items()}


def _owner(value: Any, name: str, places: dict[int, str]) -> str:
    if not isinstance(value, Tied):
        return name
    if id(value.layer) not in places:
        raise ShapeError(f"{name} is tied to {value.name!r} of a {type(value.layer).__name__} that is not in this model")
    return places[id(value.layer)] + value.name


def _drop_input_slope(layers: list[Layer]) -> int:
    """Return the position of the first layer with parameters, whose input slope nobody reads, and tell it so."""
    first = next((k for k, layer in enumerate(layers) if any(part.parameters for _, part in walk([("", layer)]))), 0)
    layer = layers[first]
    if isinstance(layer, Sequential):
        _drop_input_slope(layer.layers)
    else:
        layer.needs_input_slope = False
    return first
