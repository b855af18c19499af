"""Pooling: the largest number, or the mean, of each window.

Letters: B rows (B, H, W, C) or (B, L, C), channels last; h, w windows down and across. A window's maximum is the maximum down of the
maxima across, and so it is with means: both are taken an axis at a time, in passes over whole rows of channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn.layers.layer import Built, Layer, Shape
from hpcml.nn.layers.patches import Windows
from hpcml.nn.workspace import Workspace


class AxisPool(ABC):
    """Windows along one axis of (B, H, W, C): reduced forward, spread backward, in memory of its own."""

    fills: float
    """What padding must hold to count for nothing."""

    def __init__(self, axis: int, size: int, stride: int, count: int) -> None:
        """Pool `count` windows of `size`, `stride` apart, along axis 1 (down) or 2 (across)."""
        self.axis, self.size, self.stride, self.count = axis, size, stride, count
        self.work = Workspace()

    def taps(self, x: Array) -> list[Array]:
        """Return, for each place in a window, the view of that place in all windows."""
        reach = self.stride * (self.count - 1) + 1
        before = (slice(None),) * self.axis
        return [x[(*before, slice(k, k + reach, self.stride))] for k in range(self.size)]

    def blank(self, slope: Array, length: int) -> tuple[Array, list[Array]]:
        """Return the input's slope, zero where windows overlap or leave gaps, and its taps."""
        back = self.work.take("back", (*slope.shape[: self.axis], length, *slope.shape[self.axis + 1 :]), slope)
        if self.stride != self.size or self.stride * self.count != length:
            back[...] = 0
        return back, self.taps(back)

    @abstractmethod
    def reduce(self, x: Array) -> Array:
        """Return a number for each window."""

    @abstractmethod
    def spread(self, slope: Array, length: int) -> Array:
        """Return the slope of the input, `length` long on this axis; overwrites slope."""


class AxisMax(AxisPool):
    """The maximum along an axis; the first of equal numbers takes the whole slope, as in PyTorch."""

    fills = float("-inf")

    def reduce(self, x: Array) -> Array:
        """Return the maxima and remember, for each place but the first, where it was larger than all before it."""
        xp, taps = namespace(x), self.taps(x)
        out = self.work.take("out", taps[0].shape, x)
        self._later = [self.work.take(f"later {k}", out.shape, x, bool) for k in range(1, self.size)]
        largest = taps[0]
        for tap, later in zip(taps[1:], self._later, strict=True):
            xp.greater(tap, largest, out=later)
            xp.maximum(largest, tap, out=out)
            largest = out
        if largest is not out:
            out[...] = largest
        return out

    def spread(self, slope: Array, length: int) -> Array:
        """Return the slopes at the places of the maxima, zeros elsewhere."""
        xp = namespace(slope)
        back, taps = self.blank(slope, length)
        overlap = self.stride < self.size
        scratch = self.work.take("scratch", slope.shape, slope) if overlap else None
        for tap, later in zip(taps[:0:-1], reversed(self._later), strict=True):
            mine = tap if scratch is None else scratch
            xp.multiply(slope, later, out=mine)
            xp.subtract(slope, mine, out=slope)  # what is left belongs to the places before
            if overlap:
                tap += mine
        if overlap:
            taps[0] += slope
        else:
            taps[0][...] = slope
        return back


class AxisMean(AxisPool):
    """The mean along an axis; padding counts as zeros, as in PyTorch."""

    fills = 0.0

    def reduce(self, x: Array) -> Array:
        """Return the means."""
        xp, taps = namespace(x), self.taps(x)
        out = self.work.take("out", taps[0].shape, x)
        out[...] = taps[0]
        for tap in taps[1:]:
            out += tap
        xp.multiply(out, 1 / self.size, out=out)
        return out

    def spread(self, slope: Array, length: int) -> Array:
        """Return each window's slope, shared by its places."""
        namespace(slope).multiply(slope, 1 / self.size, out=slope)
        back, taps = self.blank(slope, length)
        for tap in taps:
            if self.stride < self.size:
                tap += slope
            else:
                tap[...] = slope
        return back


class Pool(Layer):
    """Reduce each window of each channel to one number: (B, H, W, C) -> (B, h, w, C), (B, L, C) -> (B, l, C), or to (B, C)."""

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
        if any(self.windows.padding):
            padded = self.take("padded", (len(x), *self.windows.padded, x.shape[-1]), x)
            padded[...] = self.along.fills
            self.windows.inside(padded)[...] = images
            images = padded
        for axis in self._axes:
            images = axis.reduce(images)
        return images.reshape(len(x), *self._out)

    def backward(self, slope: Array) -> Array:
        """Return the slope of the input; overwrites slope."""
        windows, n = self.windows, len(slope)
        back = slope.reshape(n, *windows.counts, slope.shape[-1])
        for axis in reversed(self._axes):
            back = axis.spread(back, windows.padded[axis.axis - 1])
        if any(windows.padding):
            whole = back
            back = self.take("back", (n, *windows.image), slope)
            back[...] = windows.inside(whole)
        return back.reshape(n, *self._in)


class MaxPool(Pool):
    """The largest number of each window, or, without a size, of the whole image."""

    along = AxisMax


class AveragePool(Pool):
    """The mean of each window, its padding counted as zeros; or, without a size, of the whole image."""

    along = AxisMean
