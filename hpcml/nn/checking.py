"""Is a layer right? One call that compares it with finite differences and with its own promises."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array, Device, to_host
from hpcml.arrays.device import gpus
from hpcml.errors import NumericsError, ShapeError
from hpcml.nn.layers.chain import numbered, walk
from hpcml.nn.layers.layer import Layer, Shape
from hpcml.nn.model import Model

STEP = 1e-5
"""The error of a central difference is STEP^2 from the curve and 1e-16 / STEP from rounding: about 1e-10 and 1e-11."""

TOLERANCE = 1e-6
"""Largest difference from finite differences, as a part of the largest slope."""

ROWS = 4
LARGE = 1 << 15
"""Bytes of rows beside which what Python and numpy take for themselves is little."""

GROWTH = 4096
"""Bytes that Python itself may keep over some steps."""


def check(layer: Layer, shape: Shape, *, x: np.ndarray | None = None, input_slope: bool = True) -> None:
    """Raise unless a new layer keeps what a layer promises, for rows of this shape, in float64.

    Compared are, in training and in evaluation: the shape of its outputs with what `build` says, gradients and input slope with finite
    differences, a smaller batch after a larger one with a fresh one, memory that a step takes or keeps, and, where there is a GPU,
    CuPy with NumPy.

    Args:
        layer: not yet in a model; it is bound to one made here and spoilt for others.
        shape: of an input row.
        x: (B, *shape) rows to check with; normal numbers when left out.
        input_slope: False where the input has no slope, such as tokens.

    Raises:
        ShapeError: if outputs or slopes have other shapes than they should.
        NumericsError: if numbers are wrong, naming parameter and place, or a step takes memory anew or keeps it.
    """
    probe = _Probe(layer, shape, x, input_slope)
    for training in (True, False):
        probe.training = training
        probe.compare_shapes()
        probe.compare_slopes()
        probe.compare_batches()
        probe.compare_memory()
        if gpus():
            probe.compare_devices()


class _Probe:
    """A layer in a model of its own, its rows, and weights that make its outputs one number."""

    def __init__(self, layer: Layer, shape: Shape, x: np.ndarray | None, input_slope: bool) -> None:
        self.name, self.input_slope, self.training = type(layer).__name__, input_slope, True
        self.model = Model([layer], shape, seed=1, dtype=np.float64)
        tree = [part for _, part in walk(numbered([layer]))]
        self.looks_up = any(part.takes_tokens for part in tree)  # sorts tokens, which takes memory
        if self.looks_up and x is None:
            text = f"{self.name} takes tokens, which cannot be drawn without its vocabulary"
            raise ShapeError(f"{text}; give rows of them as x, of shape (B, {', '.join(map(str, shape))}), and input_slope=False")
        self.x = np.random.default_rng(0).standard_normal((ROWS, *shape)) if x is None else np.array(x, np.float64)
        for part in tree:
            part.needs_input_slope = True
        random = np.random.default_rng(1)
        trained = slice(0, self.model.arena.trained)
        self.model.arena.data[trained] += random.standard_normal(self.model.arena.trained) / 2
        self.weights = random.standard_normal((len(self.x), *self.model.outputs))

    def forward(self, x: Array) -> Array:
        if self.training:
            self.model.context.train(seed=1, step=2, worker=3)
        else:
            self.model.context.evaluate()
        return self.model.forward(x)

    def backward(self, x: Array, weights: Array) -> Array:
        """Return the input's slope after a forward, and leave the gradient in the arena."""
        found: list[Array] = []
        layer = self.model.layers[0]
        original = layer.backward
        layer.backward = lambda slope: found.append(original(slope)) or found[0]  # type: ignore[method-assign, func-returns-value]
        try:
            self.forward(x)
            self.model.backward(weights.copy())
        finally:
            del layer.backward
        return found[0]

    def compare_shapes(self) -> None:
        for rows in (self.x, self.x[:1], self.x[:0]):
            kept, out = rows.copy(), self._try(rows)
            expected = (len(rows), *self.model.outputs)
            if out.shape != expected or out.dtype != self.x.dtype:
                raise ShapeError(f"{self.name}: forward gives {out.shape} {out.dtype}, build promised {expected} {self.x.dtype}")
            if not np.array_equal(kept, rows):
                raise NumericsError(f"{self.name}: forward overwrites its input, which the layer before may still need")

    def _try(self, rows: np.ndarray) -> np.ndarray:
        """Return what forward gives for some rows, or say that it gives none."""
        try:
            out = self.forward(rows)
        except Exception as error:
            text = f"{self.name}: forward raises {type(error).__name__} for {len(rows)} rows: {error}"
            raise ShapeError(f"{text}; any number of rows may come, and a worker may have none") from error
        if not isinstance(out, np.ndarray):
            raise ShapeError(f"{self.name}: forward gives {out!r}, no array; return the outputs")
        return out

    def compare_slopes(self) -> None:
        arena = self.model.arena
        arena.grad[: arena.trained] = np.nan
        slope = self.backward(self.x, self.weights)
        if not isinstance(slope, np.ndarray):
            raise ShapeError(f"{self.name}: backward gives {slope!r}, no array; return the slope of the input")
        slope = slope.copy()
        found = arena.grad[: arena.trained].copy()
        for p in arena:
            if not p.running:
                self._compare(f"the gradient of {p.name}", found[p.span].reshape(p.shape), p.data)
        if self.input_slope:
            if slope.shape != self.x.shape:
                raise ShapeError(f"{self.name}: backward gives {slope.shape}, the input has {self.x.shape}")
            self._compare("the slope of the input", slope, self.x)

    def _compare(self, what: str, found: np.ndarray, at: np.ndarray) -> None:
        expected = differences(lambda: float((self.forward(self.x) * self.weights).sum()), at)
        limit = TOLERANCE * max(1e-3, float(np.abs(expected).max(initial=0)))
        wrong = ~(np.abs(found - expected) <= limit + TOLERANCE * np.abs(expected))
        if wrong.any():
            place = tuple(int(k) for k in np.argwhere(wrong)[0])
            text = f"{self.name}: {what} is {found[place]:.9g} at {place}, finite differences give {expected[place]:.9g}"
            raise NumericsError(f"{text}; {int(wrong.sum())} of {wrong.size} are wrong{'' if self.training else ', in evaluation'}")

    def compare_batches(self) -> None:
        before = list(self._numbers(self.x, self.weights))
        self.backward(np.concatenate([self.x, self.x[::-1]]), np.concatenate([self.weights, self.weights]))
        for a, b in zip(before, self._numbers(self.x, self.weights), strict=True):
            if not np.array_equal(a, b):
                raise NumericsError(f"{self.name}: a batch gives other numbers after a larger one: something of it is left over")

    def _numbers(self, x: Array, weights: Array) -> Iterator[np.ndarray]:
        slope = to_host(self.backward(x, weights)).copy()
        return iter([to_host(self.forward(x)).copy(), to_host(self.model.arena.grad[: self.model.arena.trained]).copy(), slope])

    def compare_memory(self) -> None:
        times = -(-LARGE // max(1, self.x.nbytes))
        x, slope = np.concatenate([self.x] * times), np.concatenate([self.weights] * times)
        usual = np.setbufsize(128)  # numpy converts in buffers of its own, which are to be small beside the rows
        tracemalloc.start()
        try:
            passes = [self._memory_of_a_pass(x.copy(), slope.copy()) for _ in range(7)]
            anew = [self._memory_of_a_pass(x, slope.copy()) for _ in range(2)][1][1]  # no other rows are let go meanwhile
        finally:
            tracemalloc.stop()
            np.setbufsize(usual)
        grown = passes[-1][0] - passes[1][0]
        if grown > GROWTH:
            hint = "take buffers by self.take, and keep no list of arrays: an input is kept until the next forward, not longer"
            raise NumericsError(f"{self.name}: five steps keep {grown} bytes more; {hint}")
        if anew > x.nbytes // 2 and not self.looks_up:
            hint = "take memory by self.take, or self.scratch within a call, and write there with out="
            raise NumericsError(f"{self.name}: each step takes {anew} bytes anew for {x.nbytes} bytes of rows; {hint}")

    def _memory_of_a_pass(self, x: np.ndarray, slope: np.ndarray) -> tuple[int, int]:
        """Return the bytes that are held after a pass, and those that it took for a while."""
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        self.forward(x)
        self.model.backward(slope)
        after, peak = tracemalloc.get_traced_memory()
        return after, peak - before

    def compare_devices(self) -> None:
        host, device = list(self._numbers(self.x, self.weights)), Device(0)
        self.model.move(device)
        try:
            found = list(self._numbers(device.place(self.x), device.place(self.weights)))
        finally:
            self.model.move(Device())
        for a, b in zip(host, found, strict=True):
            if not np.allclose(a, b, rtol=1e-9, atol=1e-9 * max(1e-3, float(np.abs(a).max(initial=0)))):
                raise NumericsError(f"{self.name}: NumPy and CuPy differ by up to {float(np.abs(a - b).max()):.3g}")


def differences(value: Callable[[], Any], x: np.ndarray) -> np.ndarray:
    """Return the slope of value() with respect to x, element by element, by central differences; x is left as it was."""
    flat, slope = x.reshape(-1), np.zeros(x.size)
    if not x.flags.c_contiguous:
        raise ShapeError("finite differences need a contiguous array, a copy would not change what is read")
    for k in range(flat.size):
        kept = float(flat[k])
        flat[k] = kept + STEP
        above = float(value())
        flat[k] = kept - STEP
        slope[k] = (above - float(value())) / (2 * STEP)
        flat[k] = kept
    return slope.reshape(x.shape)
