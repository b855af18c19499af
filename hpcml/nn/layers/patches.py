"""Every window of an image as a row of a matrix (im2col): what makes a convolution a product.

Letters: B images of height H, width W and C channels, (B, H, W, C); g groups; h, w windows down and across; K numbers in a window
of a group. A one-dimensional row (L, C) is an image of height 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpcml.arrays import Array, aligned, namespace
from hpcml.errors import ShapeError
from hpcml.nn.values import is_whole
from hpcml.nn.workspace import Scratch

Pair = tuple[int, int]
"""(down, across)."""

IN_CACHE = 1 << 21
"""Bytes of patches that are laid out at once on a CPU: about what stays in a core's own cache until the product has read it.

Measured: a 3x3 convolution of 64 images of 16x16x32 to 64 channels takes 6.9 ms with 4 images at once, 9.8 with all.
"""

ON_DEVICE = 1 << 28
"""Bytes of patches at once on a GPU, where a launch costs more than a cache saves."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows of a convolution or a pooling lie on an image."""

    image: tuple[int, int, int]
    """(H, W, C)."""
    size: Pair
    stride: Pair
    padding: Pair

    @classmethod
    def on(cls, shape: tuple[int, ...], layer: str, *, size: Any, stride: Any, padding: Any) -> Windows:
        """Return the windows on rows of shape (L, C) or (H, W, C); size, stride and padding are one number, or one an axis.

        Raises:
            ShapeError: if the rows have other axes, or a window does not fit on them.
        """
        if len(shape) not in (2, 3):
            raise ShapeError(f"{layer} takes rows (length, channels) or (height, width, channels), got {shape}; put Reshape(...) before it")
        axes = len(shape) - 1
        sizes, strides, pads = (
            _numbers(value, axes, least, f"{layer}: {what}")
            for value, least, what in ((size, 1, "size"), (stride, 1, "stride"), (padding, 0, "padding"))
        )
        if axes == 1:
            shape, sizes, strides, pads = (1, *shape), (1, *sizes), (1, *strides), (0, *pads)
        made = cls((shape[0], shape[1], shape[2]), (sizes[0], sizes[1]), (strides[0], strides[1]), (pads[0], pads[1]))
        if min(made.counts) < 1:
            raise ShapeError(f"{layer}: a window of {size} does not fit on rows of shape {shape[-axes - 1 :]} with padding {padding}")
        return made

    @property
    def counts(self) -> Pair:
        """Return (h, w), how many windows there are down and across."""
        h, w = ((self.image[k] + 2 * self.padding[k] - self.size[k]) // self.stride[k] + 1 for k in (0, 1))
        return h, w

    @property
    def padded(self) -> Pair:
        """Return height and width with the padding."""
        return self.image[0] + 2 * self.padding[0], self.image[1] + 2 * self.padding[1]

    def inside(self, padded: Array) -> Array:
        """Return the view of images with padding in which the images themselves lie."""
        top, left = self.padding
        return padded[:, top : top + self.image[0], left : left + self.image[1]]


def _numbers(value: Any, axes: int, least: int, what: str) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(numbers) != axes or not all(is_whole(number) and number >= least for number in numbers):
        raise ShapeError(
            f"{what} is {value!r}; give a whole number of at least {least}, or one for each of the {axes} axes before the channels"
        )
    return tuple(int(number) for number in numbers)


def blank(shape: tuple[int, ...], like: Array) -> Array:
    """Return zeros on the device of `like`, in its dtype."""
    xp = namespace(like)
    return aligned(shape, like.dtype) if xp.__name__ == "numpy" else xp.zeros(shape, like.dtype)


class Patches:
    """Lays out the windows of a few images at a time as a matrix, in memory that all layers share."""

    def __init__(self, windows: Windows, groups: int, like: Array, scratch: Scratch) -> None:
        """Allocate the padded images for ``images`` images, on the device of `like` and in its dtype."""
        (h, w), channels, (down, across) = windows.counts, windows.image[2], windows.size
        self._groups, self._row = groups, down * across * channels // groups
        per_image = h * w * down * across * channels
        limit = IN_CACHE if namespace(like).__name__ == "numpy" else ON_DEVICE
        self.images = max(1, limit // (per_image * like.dtype.itemsize))
        # One pixel a window, all in their order: the images are their own matrix.
        self._plain = (windows.size, windows.stride, windows.padding, groups) == ((1, 1), (1, 1), (0, 0), 1)
        if self._plain:
            return
        padded = blank((self.images, *windows.padded, channels), like)
        self._inside = windows.inside(padded)
        self._seen = _seen(padded, windows, groups)
        self._scratch = scratch

    def fill(self, x: Array) -> Array:
        """Return the matrix (g, B h w, K) of at most ``images`` images; valid until the next call of any layer's."""
        if self._plain:
            return x.reshape(1, -1, self._row)
        n = len(x)
        self._inside[:n] = x  # the zeros around it stay
        seen = self._seen[:, :n]
        matrix = self._scratch.take("patches", seen.shape, x)
        matrix[...] = seen
        return matrix.reshape(self._groups, -1, self._row)


def _seen(padded: Array, windows: Windows, groups: int) -> Array:
    """Return a view (g, B, h, w, down, across, C / g) of the windows; nothing is copied."""
    image, down, across, channel = padded.strides
    part = padded.shape[3] // groups
    shape = (groups, len(padded), *windows.counts, *windows.size, part)
    strides = (channel * part, image, down * windows.stride[0], across * windows.stride[1], down, across, channel)
    return namespace(padded).lib.stride_tricks.as_strided(padded, shape, strides)
