"""Pooling: the largest number, or the mean, of each window.

Letters: B rows (B, H, W, C) or (B, L, C), channels last; h, w windows down and across. A window's maximum is the maximum down of the
maxima across, and so it is with means: both are taken an axis at a time, in passes over whole rows of channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn.layers.layer import Built, Layer, Shape
from hpcml.nn.layers.patches import Windows
from hpcml.nn.workspace import pieces

Take = Callable[..., Array]
"""Layer.scratch: (name, shape, like) -> memory for now."""


class AxisPool(ABC):
    """Windows along one axis of (B, H, W, C): reduced forward, spread backward."""

    fills: float
    """What padding must hold to count for nothing."""

    def __init__(self, axis: int, size: int, stride: int, count: int) -> None:
        """Pool `count` windows of `size`, `stride` apart, along axis 1 (down) or 2 (across)."""
        self.axis, self.size, self.stride, self.count = axis, size, stride, count

    @property
    def notes(self) -> int:
        """Return how many arrays of booleans, each of the shape of the reduced images, backward needs from forward."""
        return 0

    def reduced(self, shape: Shape) -> Shape:
        """Return the shape of images of this shape after they are reduced."""
        return (*shape[: self.axis], self.count, *shape[self.axis + 1 :])

    def taps(self, x: Array) -> list[Array]:
        """Return, for each place in a window, the view of that place in all windows."""
        reach = self.stride * (self.count - 1) + 1
        before = (slice(None),) * self.axis
        return [x[(*before, slice(k, k + reach, self.stride))] for k in range(self.size)]

    def clear(self, back: Array) -> None:
        """Overwrite the input's slope with zeros where windows overlap or leave gaps."""
        if self.stride != self.size or self.stride * self.count != back.shape[self.axis]:
            back[...] = 0

    @abstractmethod
    def reduce(self, x: Array, out: Array, notes: list[Array]) -> None:
        """Overwrite out with a number for each window, and the notes for backward."""

    @abstractmethod
    def spread(self, slope: Array, back: Array, notes: list[Array], scratch: Take) -> None:
        """Overwrite back with the slope of the input, and slope with anything."""


class AxisMax(AxisPool):
    """The maximum along an axis; the first of equal numbers takes the whole slope, as in PyTorch."""

    fills = float("-inf")

    @property
    def notes(self) -> int:
        """Return one note for each place but the first: where it was larger than all before it."""
        return self.size - 1

    def reduce(self, x: Array, out: Array, notes: list[Array]) -> None:
        """Overwrite out with the maxima and the notes with where each place was larger than all before it."""
        xp, taps = namespace(x), self.taps(x)
        largest = taps[0]
        for tap, later in zip(taps[1:], notes, strict=True):
            xp.greater(tap, largest, out=later)
            xp.maximum(largest, tap, out=out)
            largest = out
        if largest is not out:
            out[...] = largest

    def spread(self, slope: Array, back: Array, notes: list[Array], scratch: Take) -> None:
        """Overwrite back with the slopes at the places of the maxima, zeros elsewhere."""
        xp, overlap = namespace(slope), self.stride < self.size
        self.clear(back)
        first, *others = self.taps(back)
        for k in reversed(range(len(others))):
            mine = scratch("mine", slope.shape, slope) if overlap else others[k]
            xp.multiply(slope, notes[k], out=mine)
            # What is left belongs to the places before; where only the first is, it goes there at once.
            xp.subtract(slope, mine, out=slope if overlap or k else first)
            if overlap:
                others[k] += mine
        if overlap:
            first += slope
        elif not others:
            first[...] = slope


class AxisMean(AxisPool):
    """The mean along an axis; padding counts as zeros, as in PyTorch."""

    fills = 0.0

    def reduce(self, x: Array, out: Array, notes: list[Array]) -> None:
        """Overwrite out with the means."""
        taps = self.taps(x)
        out[...] = taps[0]
        for tap in taps[1:]:
            out += tap
        namespace(x).multiply(out, 1 / self.size, out=out)

    def spread(self, slope: Array, back: Array, notes: list[Array], scratch: Take) -> None:
        """Overwrite back with each window's slope, shared by its places."""
        namespace(slope).multiply(slope, 1 / self.size, out=slope)
        self.clear(back)
        for tap in self.taps(back):
            if self.stride < self.size:
                tap += slope
            else:
                tap[...] = slope


class Pool(Layer):
    """Reduce each window of each channel to one number: (B, H, W, C) -> (B, h, w, C), (B, L, C) -> (B, l, C), or to (B, C)."""

    keeps_output = False

    along: type[AxisPool]
    """What is done to one axis."""

    def __init__(self, size: int | tuple[int, ...] | None = None, *, stride: Any = None, padding: int | tuple[int, ...] = 0) -> None:
        """Pool windows of this size, or the whole image.

        Args:
            size: of a window, one number or one an axis; left out, the whole image: (B, C) is left.
            stride: from window to window; left out, the size.
            padding: before and after each axis, at most half the size.
        """
        super().__init__()
        self.size, self.stride, self.padding = size, size if stride is None else stride, padding

    def build(self, shape: Shape) -> Built:
        """Return the shape of the output and no parameters."""
        name = type(self).__name__
        size, stride = (shape[:-1], 1) if self.size is None else (self.size, self.stride)
        windows = self.windows = Windows.on(shape, name, size=size, stride=stride, padding=self.padding)
        if any(2 * pad > length for pad, length in zip(windows.padding, windows.size, strict=True)):
            raise ShapeError(f"{name}: padding is {self.padding}, windows are {self.size}; padding may be half a window at most")
        # An axis whose windows are single numbers, all of them, has nothing to pool.
        self._axes = [
            self.along(axis, windows.size[axis - 1], windows.stride[axis - 1], windows.counts[axis - 1])
            for axis in (2, 1)
            if (windows.size[axis - 1], windows.stride[axis - 1]) != (1, 1)
        ]
        counts = () if self.size is None else windows.counts[-(len(shape) - 1) :]
        self._in, self._out = shape, (*counts, shape[-1])
        return self._out, {}

    def forward(self, x: Array) -> Array:
        """Return a number for each window and channel, in the layer's own buffer."""
        images = x.reshape(len(x), *self.windows.image)
        channels = x.shape[-1]
        out = self.take("out", (len(x), *self.windows.counts, channels), x)
        self._notes = self._take_notes(x, channels)
        for piece in self._pieces(x):
            part = self._padded(images[piece])
            for number, axis in enumerate(self._axes):
                shape = axis.reduced(part.shape)
                into = out[piece] if number == len(self._axes) - 1 else self.scratch(f"pooled {number}", shape, x)
                axis.reduce(part, into, [note[piece] for note in self._notes[number]])
                part = into
            if not self._axes:
                out[piece] = part
        return out.reshape(len(x), *self._out)

    def backward(self, slope: Array) -> Array:
        """Return the slope of the input; overwrites slope."""
        windows, n, channels = self.windows, len(slope), slope.shape[-1]
        slopes = slope.reshape(n, *windows.counts, channels)
        back = self.context.scratch.slope((n, *windows.image), slope)
        for piece in self._pieces(slope):
            part, rows = slopes[piece], piece.stop - piece.start
            for number, axis in reversed(list(enumerate(self._axes))):
                shape = (*part.shape[: axis.axis], windows.padded[axis.axis - 1], *part.shape[axis.axis + 1 :])
                whole = shape == (rows, *windows.image)
                into = back[piece] if whole and number == 0 else self.scratch(f"spread {number}", shape, slope)
                axis.spread(part, into, [note[piece] for note in self._notes[number]], self.scratch)
                part = into
            if any(windows.padding) or not self._axes:
                back[piece] = windows.inside(part)
        return back.reshape(n, *self._in)

    def _pieces(self, x: Array) -> Iterator[slice]:
        """Cut the rows into runs whose memory between the two axes is small; a call costs as much as a passage over 4,000 numbers."""
        return pieces(x, len(x), math.prod(self.windows.image) // 8)

    def _padded(self, images: Array) -> Array:
        """Return the images, in scratch memory with padding around them if there is any."""
        if not any(self.windows.padding):
            return images
        padded = self.scratch("padded", (len(images), *self.windows.padded, images.shape[-1]), images)
        padded[...] = self.along.fills
        self.windows.inside(padded)[...] = images
        return padded

    def _take_notes(self, x: Array, channels: int) -> list[list[Array]]:
        """Return each axis' notes for all rows, in the layer's own memory."""
        shape: Shape = (len(x), *self.windows.padded, channels)
        kept = []
        for axis in self._axes:
            shape = axis.reduced(shape)
            kept.append([self.take(f"note {axis.axis} {k}", shape, x, bool) for k in range(axis.notes)])
        return kept


class MaxPool(Pool):
    """The largest number of each window, or, without a size, of the whole image."""

    along = AxisMax

    def build(self, shape: Shape) -> Built:
        """Return the shape of the output and no parameters."""
        built, windows = super().build(shape), self.windows
        self._halves = (windows.size, windows.stride, windows.padding) == ((2, 2), (2, 2), (0, 0)) and not any(
            n % 2 for n in windows.image[:2]
        )
        return built

    def forward(self, x: Array) -> Array:
        """Return the largest number of each window, in the layer's own buffer."""
        fast = self.fast(x) if self._halves else None
        self._place: Array = None
        if fast is None:
            return super().forward(x)
        out = self.take("out", (len(x), *self._out), x)
        self._place = self.take("place", out.shape, x, np.uint8)
        fast.pool_max(x, out, self._place)
        return out

    def backward(self, slope: Array) -> Array:
        """Return the slope of the input; overwrites slope."""
        if self._place is None:
            return super().backward(slope)
        back = self.context.scratch.slope((len(slope), *self._in), slope)
        self.context.fast.spread_max(np.ascontiguousarray(slope), self._place, back)
        return back


class AveragePool(Pool):
    """The mean of each window, its padding counted as zeros; or, without a size, of the whole image."""

    along = AxisMean
