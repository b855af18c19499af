"""Products of 16-bit operands by cuBLAS: float32 sums of exact products, at half the bytes and on a GPU's tensor cores.

Letters: out (..., m, n) is the product of a (..., m, k) and b (..., k, n). cuBLAS counts memory by columns, where a row-major array is
its own transpose; so it is asked for out^T = b^T a^T, whose operands come in the other order and need no copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from hpcml.arrays import fused
from hpcml.arrays.device import Array, address, on_device

KINDS = {"float32": 0, "float16": 2, "uint16": 14}
"""CUDA's numbers of the dtypes; uint16 holds the bits of bfloat16, which numpy and CuPy do not know."""

COMPUTE_FLOAT32, DEFAULT_ALGORITHM = 68, -1
ONE, ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)
"""Factors of the product and of what out held, read on the host at the call."""

Operand: TypeAlias = tuple[int, int, int, int, int]
"""(whether to transpose, address, kind, leading dimension, distance of matrices)."""

Target: TypeAlias = tuple[int, int, int, int]
"""(address, kind, leading dimension, distance of matrices)."""

Multiply: TypeAlias = Callable[[tuple[int, int, int], Operand, Operand, Target, int], None]
"""((m, n, k), left, right, out, count): calls cuBLAS on the current stream for `count` products, in its own order of rows and columns."""


def fits(a: Array, b: Array, out: Array) -> bool:
    """Return whether `product` takes these shapes and this out: float32 on a device, not empty, rows of out each in one piece."""
    if not (on_device(out) and all(x.dtype == np.float32 and x.ndim >= 2 and x.size for x in (a, b, out))):
        return False
    rows, row, number = out.shape[-2], out.strides[-2], out.itemsize
    whole = (out.shape[-1] == 1 or out.strides[-1] == number) and (rows == 1 or row >= out.shape[-1] * number)
    return whole and all(x.ndim == 2 or x.shape[:-2] == out.shape[:-2] for x in (a, b))


def product(a: Array, b: Array, out: Array, multiply: Multiply | None = None) -> None:
    """Overwrite out, float32, with the product of a and b, both float32 or both of 16 bits.

    Operands are C-contiguous, as they are or with their last two axes swapped. Matrices of out that do not lie at one distance take a
    call for each entry of the first axis. `multiply` is how cuBLAS is called; left out, as CuPy does it.
    """
    distance = _distance(out)
    if distance is None:
        for k, part in enumerate(out):
            product(a[k] if a.ndim > 2 else a, b[k] if b.ndim > 2 else b, part, multiply)
        return
    (m, n), k, count = out.shape[-2:], a.shape[-1], math.prod(out.shape[:-2])
    ld = n if m == 1 else out.strides[-2] // out.itemsize
    (multiply or _multiply)((n, m, k), _operand(b), _operand(a), (address(out), KINDS[out.dtype.name], ld, distance), count)


def to_bfloat16(x: Array, out: Array) -> None:
    """Overwrite out, uint16, with the bits of x, float32, rounded to the nearest bfloat16, ties to even; both C-contiguous."""
    fused.launch("bfloat16", fused.blocks(x.size), np.int64(x.size), x, out)


def _distance(out: Array) -> int | None:
    """Return how many numbers lie between the matrices of out, 0 for one, or None if the distances differ."""
    axes = [(size, stride) for size, stride in zip(out.shape[:-2], out.strides[:-2], strict=True) if size > 1]
    for (_, outer), (size, inner) in pairwise(axes):
        if outer != size * inner:
            return None
    return axes[-1][1] // out.itemsize if axes else 0


def _operand(x: Array) -> Operand:
    """Return what cuBLAS must know of x."""
    turned = not x.flags.c_contiguous
    rows, columns = x.shape[-2:]
    return int(turned), address(x), KINDS[x.dtype.name], rows if turned else columns, rows * columns if x.ndim > 2 else 0


def _multiply(shape: tuple[int, int, int], left: Operand, right: Operand, out: Target, count: int) -> None:
    """Call cuBLAS as CuPy binds it; see Multiply."""
    from cupy.cuda import cublas, device

    handle, how = device.get_cublas_handle(), (COMPUTE_FLOAT32, DEFAULT_ALGORITHM)
    one, zero = ONE.ctypes.data, ZERO.ctypes.data
    (turn, *first), (other, *second) = left, right
    if count == 1:
        cublas.gemmEx(handle, turn, other, *shape, one, *first[:3], *second[:3], zero, *out[:3], *how)
    else:
        cublas.gemmStridedBatchedEx(handle, turn, other, *shape, one, *first, *second, zero, *out, count, *how)
