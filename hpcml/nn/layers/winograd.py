"""3 x 3 convolutions by 16 products of tiles: 2.25 times fewer multiplications than window by window.

A tile is 2 x 2 outputs, made of 4 x 4 inputs. Inputs and filters are turned into 16 numbers a channel by sums and differences, and so are
the 16 products back into outputs: by numpy's passes in `tiles.py`, or fused, in `arrays/fast.py`. Numbers differ from those of windows by a
few roundings more.

Letters: B images (B, H, W, C); K output channels; T tiles, whole images at a time.

References:
    Lavin and Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcml.arrays import Array
from hpcml.nn.layers import tiles as passes
from hpcml.nn.layers.patches import IN_CACHE, Pair, Windows
from hpcml.nn.workspace import Scratch

TURN = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
"""G: three weights of a filter's row or column into four."""

FEWEST = 16
"""Channels on either side from which on products of tiles are fast enough."""


LONG = 128
"""Numbers in a row of tiles, of the side with fewer channels, from which on numpy's passes over tiles are faster than windows."""

FEWEST_TILES = 64
"""Tiles at once below which filters of many channels are read from memory too often; then twice as many are taken, in cache or not."""


def fits(windows: Windows, groups: int, outputs: int) -> bool:
    """Return whether a convolution and its slopes can go by tiles: 3 x 3 filters at each place, even sides, enough channels."""
    shape = (windows.size, windows.stride, groups)
    sides = (*windows.image[:2], *windows.counts)
    return (
        shape == ((3, 3), (1, 1), 1)
        and max(windows.padding) <= 2
        and not any(n % 2 for n in sides)
        and min(windows.image[2], outputs) >= FEWEST
    )


def fits_numpy(windows: Windows, outputs: int, x: Array) -> bool:
    """Return whether numpy's passes are worth it for a convolution that can go by tiles, of these images."""
    long = windows.counts[1] // 2 * min(windows.image[2], outputs) >= LONG
    return long and type(x) is np.ndarray and x.dtype in (np.float32, np.float64)


def convolve(fast: Any, scratch: Scratch, x: np.ndarray, weight: np.ndarray, padding: Pair, out: np.ndarray) -> None:
    """Overwrite out (B, h, w, K) with the convolution of x (B, H, W, C) by weight (3, 3, C, K); by numpy's passes where fast is None."""
    C, K = weight.shape[2:]
    filters = scratch.take("filters", (4, 4, C, K), x)
    _turn(TURN, weight, scratch, filters)
    for part, tiles in _blocks(x, out):
        inputs, products = _inputs(fast, scratch, x[part], padding, tiles), scratch.take("products", (16, tiles, K), x)
        np.matmul(inputs, filters.reshape(16, C, K), out=products)
        if fast is None:
            passes.untile_outputs(scratch, products, out[part])
        else:
            fast.untile_outputs(products, scratch.take("sums", (4, 2, out.shape[2] // 2, K), x), out[part])


def slope_of_filters(fast: Any, scratch: Scratch, x: np.ndarray, slope: np.ndarray, padding: Pair, grad: np.ndarray) -> None:
    """Overwrite grad (3, 3, C, K) with the slope of the filters, from x (B, H, W, C) and slope (B, h, w, K); fast as in convolve."""
    C, K = grad.shape[2:]
    total, more = (scratch.take(name, (16, C, K), x) for name in ("filters", "more filters"))
    total[...] = 0
    for part, tiles in _blocks(x, slope):
        inputs, slopes = _inputs(fast, scratch, x[part], padding, tiles), scratch.take("products", (16, tiles, K), x)
        if fast is None:
            passes.tile_slopes(slope[part], slopes)
        else:
            fast.tile_slopes(slope[part], scratch.take("sums", (4, slope.shape[2], K), x), slopes)
        np.matmul(inputs.transpose(0, 2, 1), slopes, out=more)
        total += more
    _turn(TURN.T, total.reshape(4, 4, C, K), scratch, grad)


def turned(scratch: Scratch, weight: np.ndarray) -> np.ndarray:
    """Return the filters (3, 3, K, C) by which slopes of the outputs become slopes of the input: turned by half a turn."""
    back = scratch.take("turned", (3, 3, *weight.shape[:1:-1]), weight)
    back[...] = weight[::-1, ::-1].swapaxes(2, 3)
    return back


def _blocks(x: np.ndarray, out: np.ndarray) -> Iterator[tuple[slice, int]]:
    """Yield runs of images whose tiles stay in cache and whose products need no packing, with the number of their tiles."""
    an_image, C, K = out.shape[1] * out.shape[2] // 4, x.shape[3], out.shape[3]
    tiles = min(IN_CACHE // (16 * (C + K) * x.itemsize), passes.UNPACKED // (C * K))
    images = max(1, (tiles if tiles >= FEWEST_TILES else 2 * FEWEST_TILES) // an_image)
    for first in range(0, len(x), images):
        stop = min(first + images, len(x))
        yield slice(first, stop), (stop - first) * an_image


def _inputs(fast: Any, scratch: Scratch, x: np.ndarray, padding: Pair, tiles: int) -> np.ndarray:
    """Return the tiles (16, T, C) of some images."""
    C = x.shape[3]
    inputs = scratch.take("inputs", (16, tiles, C), x)
    if fast is None:
        passes.tile_inputs(scratch, x, padding, inputs)
    else:
        fast.tile_inputs(x, *padding, scratch.take("rows", (5, x.shape[2] + 4, C), x), inputs)
    return inputs


def _turn(by: np.ndarray, weight: np.ndarray, scratch: Scratch, out: np.ndarray) -> None:
    """Overwrite out (n, n, C, K) with by (n, m) times weight (m, m, C, K) times by transposed."""
    n, m = by.shape
    half = scratch.take("half", (n, m, weight[0, 0].size), weight)
    by = by.astype(weight.dtype, copy=False)
    np.matmul(by, weight.reshape(m, -1), out=half.reshape(n, -1))
    np.matmul(by, half, out=out.reshape(n, n, -1))
