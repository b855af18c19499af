"""Numpy's passes for `winograd.py`, over whole blocks of images: into tiles of 16 numbers a channel, and back.

Even and odd rows and columns are held apart, so that each pass is a sum or difference of long runs. Signs differ from those of
`arrays/fast.py` in the last of the four numbers along each axis, on both sides of the product: nothing need be negated.

Letters: B images (B, H, W, C); h, w outputs down and across; K output channels; T tiles of 2 x 2 outputs in the order of rows.
"""

from __future__ import annotations

import numpy as np

from hpcml.nn.layers.patches import Pair
from hpcml.nn.workspace import Scratch

UNPACKED = 10**6
"""Multiplications up to which OpenBLAS multiplies matrices as they lie: 1.2 times as fast as packing what is used a few times."""

BACK = np.kron(*2 * (np.array([[1, 1, 1, 0], [0, 1, -1, 1]], np.float32),))
"""(4, 16): from the 16 products of a tile to its 2 x 2 outputs."""


def tile_inputs(scratch: Scratch, x: np.ndarray, padding: Pair, out: np.ndarray) -> None:
    """Overwrite out (16, T, C) with sums and differences of each 4 x 4 tile of the images (B, H, W, C) with so many zeros around them."""
    B, H, W, C = x.shape
    down, across = (H + 2 * padding[0] - 2) // 2, (W + 2 * padding[1] - 2) // 2
    apart = scratch.take("apart", (2, 2, B, down + 1, across + 1, C), x)
    if any(padding):
        apart[...] = 0
    for a in range(2):
        down_there, down_here = _parity(a, padding[0], H)
        for b in range(2):
            across_there, across_here = _parity(b, padding[1], W)
            apart[a, b, :, down_there, across_there] = x[:, down_here, across_here]
    lines = scratch.take("lines", (4, 2, B, down, across + 1, C), x)
    by_column, tiles = lines.swapaxes(0, 1), out.reshape(4, 4, B, down, across, C)
    with np.errstate():  # its end restores the buffer's size too
        np.setbufsize(16)  # rows are long: read as they lie, not copied into numpy's buffer first, they take 0.6 of the time
        _four(apart[:, :, :, :-1], apart[:, :, :, 1:], lines)
        _four(by_column[..., :-1, :], by_column[..., 1:, :], tiles.swapaxes(0, 1))


def _parity(odd: int, padding: int, length: int) -> tuple[slice, slice]:
    """Return which even or odd places behind the padding hold numbers, and which numbers of the image these are."""
    first = max(0, (padding - odd + 1) // 2)
    here = 2 * first + odd - padding
    return slice(first, first + (length - here + 1) // 2), slice(here, None, 2)


def _four(now: np.ndarray, later: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (4, ...) from numbers 0 and 1 of each tile along an axis, now (2, ...), and 2 and 3, later (2, ...)."""
    np.subtract(now[0], later[0], out=out[0])
    np.add(now[1], later[0], out=out[1])
    np.subtract(later[0], now[1], out=out[2])
    np.subtract(later[1], now[1], out=out[3])


def untile_outputs(scratch: Scratch, tiles: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (B, h, w, K) with the outputs that the products (16, T, K) make, by a product with few rows for each few tiles."""
    B, h, w, K = out.shape
    wide, flat = w // 2 * K, tiles.reshape(16, -1)
    rows = max(1, UNPACKED // (BACK.size * wide))
    places = out.reshape(B * h // 2, 2, w // 2, 2, K).transpose(1, 3, 0, 2, 4)
    back = BACK.astype(out.dtype, copy=False)
    for first in range(0, B * h // 2, rows):
        part = slice(first, min(first + rows, B * h // 2))
        outputs = scratch.take("outputs", (4, (part.stop - first) * wide), out)
        np.matmul(back, flat[:, first * wide : part.stop * wide], out=outputs)
        places[:, :, part] = outputs.reshape(2, 2, -1, w // 2, K)


def tile_slopes(slope: np.ndarray, out: np.ndarray) -> None:
    """Overwrite out (16, T, K) with the sums and differences of each 2 x 2 tile of the slopes (B, h, w, K)."""
    B, h, w, K = slope.shape
    tiles = out.reshape(4, 4, B * h // 2, w // 2, K)
    tiles[::3, ::3] = slope.reshape(B * h // 2, 2, w // 2, 2, K).transpose(1, 3, 0, 2, 4)
    for some in (tiles[0], tiles[3], tiles):  # tiles[::3] at once would be copied: numpy sees that its parts lie between one another
        np.add(some[0], some[3], out=some[1])
        np.subtract(some[0], some[3], out=some[2])
