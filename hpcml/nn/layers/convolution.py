"""The convolution, as products of the windows' matrix.

Letters: B rows (B, H, W, C) or (B, L, C), channels last; k output channels; g groups; h, w windows down and across;
K = size down * size across * C / g numbers in a window of a group.
"""

from __future__ import annotations

from typing import Any

from hpcml.arrays import Array, namespace
from hpcml.errors import ShapeError
from hpcml.nn import values
from hpcml.nn.layers import winograd
from hpcml.nn.layers.layer import Built, Init, Layer, Shape, he_normal, zeros
from hpcml.nn.layers.patches import Patches, Windows
from hpcml.nn.layers.sums import sum_rows


class Conv(Layer):
    """Slide k small filters over images or sequences, channels last: (B, H, W, C) -> (B, h, w, k), (B, L, C) -> (B, l, k).

    A few images at a time are laid out as a matrix, in cache, and multiplied at once; nothing of it is kept for backward, which
    lays them out again: a tenth of the time, and a ninth of the memory of a 3x3 convolution.

    References:
        Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing, IWFHR 2006.
    """

    keeps_output = False

    def __init__(
        self,
        outputs: int,
        size: int | tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        init: Init = he_normal,
    ) -> None:
        """Make k = `outputs` filters.

        Args:
            outputs: k, a multiple of groups.
            size: of a filter, one number or one an axis.
            stride: from window to window.
            padding: zeros before and after each axis.
            groups: g; output channels see only the C / g input channels of their own group.
            bias: False where what follows has its own, such as BatchNorm.
            init: of the weights (size..., C / g, k); the bias starts at zero.
        """
        super().__init__()
        self.outputs, self.groups = values.whole("Conv's number of outputs", outputs), values.whole("Conv's number of groups", groups)
        self.bias, self.init = values.flag("Conv's bias", bias), init
        self._asked: dict[str, Any] = {"size": size, "stride": stride, "padding": padding}
        self._made: tuple[Any, ...] | None = None

    def build(self, shape: Shape) -> Built:
        """Return the shape of the output and the parameters weight (size..., C / g, k) and, if asked for, bias (k,)."""
        self.windows = Windows.on(shape, "Conv", **self._asked)
        channels, axes = shape[-1], len(shape) - 1
        if channels % self.groups or self.outputs % self.groups:
            raise ShapeError(f"Conv: {self.groups} groups must divide {channels} input channels and {self.outputs} outputs")
        weight = (*self.windows.size[-axes:], channels // self.groups, self.outputs)
        self._out = (*self.windows.counts[-axes:], self.outputs)
        self._tiles = winograd.fits(self.windows, self.groups, self.outputs)
        return self._out, {"weight": (weight, self.init), **({"bias": ((self.outputs,), zeros)} if self.bias else {})}

    def forward(self, x: Array) -> Array:
        """Return the outputs (B, h, w, k); keeps x until backward."""
        self._x = x
        images = self._images(x)
        out = self.take("out", (len(x), *self._out), x)
        by_tiles, fast = self._by_tiles(x)
        if by_tiles:
            winograd.convolve(fast, self.context.scratch, x, self.parameters["weight"].data, self.windows.padding, out)
            if self.bias:
                out += self.parameters["bias"].data
            return out
        patches = self._memory(x)[0]
        weight = self._by_group(self.parameters["weight"].data)
        for first in range(0, len(x), patches.images):
            part = slice(first, first + patches.images)
            rows = out[part].reshape(-1, self.outputs)
            self.matmul(patches.fill(images[part]), weight, out=self._by_group(rows))
            if self.bias:
                rows += self.parameters["bias"].data
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradients from slope (B, h, w, k) and return the input's slope."""
        (by_tiles, fast), scratch = self._by_tiles(slope, self._x), self.context.scratch
        weight, padding = self.parameters["weight"], self.windows.padding
        if by_tiles:
            winograd.slope_of_filters(fast, scratch, self._x, slope, padding, weight.grad)
        else:
            self._slope_of_filters(slope)
        if self.bias:
            sum_rows(slope.reshape(-1, self.outputs), self.work, self.parameters["bias"].grad)
        self.context.finish(self)  # before the input's slope, which takes as long again: the gradients may leave meanwhile
        if not self.needs_input_slope:
            return slope
        back = scratch.slope(self._x.shape, slope)
        if by_tiles:
            winograd.convolve(fast, scratch, slope, winograd.turned(scratch, weight.data), (2 - padding[0], 2 - padding[1]), back)
            return back
        turned = self._memory(slope)[1]
        if turned is not None:
            self._slope_by_windows(slope, self._images(back), turned)
        else:
            self._slope_by_scattering(slope, self._images(back))
        return back

    def _by_tiles(self, *arrays: Array) -> tuple[bool, Any]:
        """Return whether products are those of tiles, see winograd.py, and the fused functions for it, None where numpy's passes are."""
        if not self._tiles or self.context.precision is not None:
            return False, None
        fast = self.fast(*arrays)
        return fast is not None or all(winograd.fits_numpy(self.windows, self.outputs, x) for x in arrays), fast

    def _images(self, x: Array) -> Array:
        return x.reshape(len(x), *self.windows.image)

    def _by_group(self, matrix: Array) -> Array:
        """Return a view (g, n, columns / g) of a matrix whose last axis is the output channels, of n rows in all others."""
        return matrix.reshape(-1, self.groups, self.outputs // self.groups).transpose(1, 0, 2)

    def _memory(self, like: Array) -> tuple[Patches, Patches | None]:
        """Return what lays out the windows of the input, and those of the slope if the input's slope can be had so."""
        kind = (namespace(like), like.dtype)
        if self._made is None or self._made[0] != kind:
            windows, turned = self.windows, None
            padding = (windows.size[0] - 1 - windows.padding[0], windows.size[1] - 1 - windows.padding[1])
            if windows.stride == (1, 1) and min(padding) >= 0:
                turned = Patches(
                    Windows((*windows.counts, self.outputs), windows.size, (1, 1), padding), self.groups, like, self.context.scratch
                )
            self._made = (kind, Patches(windows, self.groups, like, self.context.scratch), turned)
        return self._made[1], self._made[2]

    def _slope_of_filters(self, slope: Array) -> None:
        """Overwrite the weight's gradient: the sum, over blocks of images, of patches^T slope."""
        images, patches = self._images(self._x), self._memory(slope)[0]
        grad = self._by_group(self.parameters["weight"].grad)
        part_of = self.scratch("weight", self.parameters["weight"].shape, slope)
        for first in range(0, len(slope), patches.images):
            part = slice(first, first + patches.images)
            cols = patches.fill(images[part]).transpose(0, 2, 1)
            into = self._by_group(part_of) if first else grad
            self.matmul(cols, self._by_group(slope[part]), out=into)
            if first:
                grad += into

    def _slope_by_windows(self, slope: Array, back: Array, patches: Patches) -> None:
        """Overwrite back: the windows of the padded slope times the filters turned by half a turn, for stride 1.

        No sums are scattered: 0.75 of the time of _slope_by_scattering on a 3x3 convolution of 16x16x32 to 64 channels.
        """
        down, across = self.windows.size
        ours, theirs = self.windows.image[2] // self.groups, self.outputs // self.groups
        weight = self.parameters["weight"].data.reshape(down, across, ours, self.groups, theirs)
        turned = self.scratch("turned", (self.groups, down, across, theirs, ours), slope)
        turned[...] = weight[::-1, ::-1].transpose(3, 0, 1, 4, 2)
        flat = turned.reshape(self.groups, -1, ours)
        slopes = slope.reshape(len(slope), *self.windows.counts, self.outputs)
        for first in range(0, len(slope), patches.images):
            part = slice(first, first + patches.images)
            rows = back[part].reshape(-1, self.groups, ours).transpose(1, 0, 2)
            self.matmul(patches.fill(slopes[part]), flat, out=rows)

    def _slope_by_scattering(self, slope: Array, back: Array) -> None:
        """Overwrite back: each window's slope is added where the window lay (col2im), for any stride and padding."""
        windows = self.windows
        images = self._memory(slope)[0].images
        (h, w), (down, across) = windows.counts, windows.size
        weight = self._by_group(self.parameters["weight"].data).transpose(0, 2, 1)
        part_of = self.windows.image[2] // self.groups
        for first in range(0, len(slope), images):
            part = slice(first, first + images)
            n = len(slope[part])
            cols = self.scratch("patches", (n * h * w, self.groups, down * across * part_of), slope)
            self.matmul(self._by_group(slope[part]), weight, out=cols.transpose(1, 0, 2))
            taps = cols.reshape(n, h, w, self.groups, down, across, part_of)
            padded = self.scratch("scattered", (n, *windows.padded, windows.image[2]), slope)
            padded[...] = 0
            by_group = padded.reshape(n, *windows.padded, self.groups, part_of)
            for i in range(down):
                for j in range(across):
                    rows, columns = (slice(k, k + s * (c - 1) + 1, s) for k, s, c in zip((i, j), windows.stride, (h, w), strict=True))
                    by_group[:, rows, columns] += taps[:, :, :, :, i, j]
            back[part] = windows.inside(padded)


class Bias(Layer):
    """Add a learned number to each channel: (B, ..., k) -> (B, ..., k).

    Behind a max-pooling instead of inside the convolution before it, it gives the same on a quarter of the numbers.
    """

    keeps_output = False

    def build(self, shape: Shape) -> Built:
        """Return the same shape and the parameter bias (k,), which starts at zero."""
        return shape, {"bias": ((shape[-1],), zeros)}

    def forward(self, x: Array) -> Array:
        """Return x + bias."""
        out = self.over_input(x)
        namespace(x).add(x, self.parameters["bias"].data, out=out)
        return out

    def backward(self, slope: Array) -> Array:
        """Overwrite the gradient and return slope as it is."""
        grad = self.parameters["bias"].grad
        sum_rows(slope.reshape(-1, len(grad)), self.work, grad)
        return slope
