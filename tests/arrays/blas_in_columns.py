"""A stand-in for cuBLAS: it reads the addresses it is given, column by column, as the library's documentation says."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from hpcml.arrays import products


class Columns:
    """The two calls of CuPy's binding, with its order of arguments; `calls` counts products by call."""

    def __init__(self):
        self.calls = []

    def gemmEx(self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo):
        self.calls.append(1)
        self._one(transa, transb, (m, n, k), (A, Atype, lda), (B, Btype, ldb), (C, Ctype, ldc))
        assert (handle, computeType, algo, number(alpha), number(beta)) == (7, 68, -1, 1, 0)

    def gemmStridedBatchedEx(
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C, Ctype, ldc, strideC,
        batchCount, computeType, algo,
    ):  # fmt: skip
        self.calls.append(batchCount)
        for j in range(batchCount):
            bytes_of = (4 if kind == 0 else 2 for kind in (Atype, Btype))
            first, second = (start + size * j * stride for start, size, stride in zip((A, B), bytes_of, (strideA, strideB), strict=True))
            places = (first, Atype, lda), (second, Btype, ldb), (C + 4 * j * strideC, Ctype, ldc)
            self._one(transa, transb, (m, n, k), *places)
        assert (handle, computeType, algo, number(alpha), number(beta)) == (7, 68, -1, 1, 0)

    def _one(self, transa, transb, shape, a, b, c):
        m, n, k = shape
        left = columns(*a, k, m).T if transa else columns(*a, m, k)
        right = columns(*b, n, k).T if transb else columns(*b, k, n)
        assert c[1] == 0
        columns(*c, m, n)[...] = floats(left) @ floats(right)


def number(address):
    """Return the float32 at a host address."""
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_float))[0]


def columns(address, kind, ld, rows, count):
    """Return `count` columns of `rows` numbers each, `ld` numbers apart, as an array over that memory."""
    assert ld >= rows
    dtype = np.dtype({0: np.float32, 2: np.float16, 14: np.uint16}[kind])
    size = ((count - 1) * ld + rows) * dtype.itemsize
    memory = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
    return np.lib.stride_tricks.as_strided(memory, (rows, count), (dtype.itemsize, ld * dtype.itemsize))


def floats(x):
    """Return float16, or bfloat16's bits, as float32."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x.astype(np.float32)


def install(monkeypatch):
    """Let products on numpy arrays go by a stand-in, and return it."""
    library, cupy, cuda = Columns(), ModuleType("cupy"), ModuleType("cupy.cuda")
    cuda.cublas, cuda.device, cupy.cuda = library, SimpleNamespace(get_cublas_handle=lambda: 7), cuda
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setattr(products, "on_device", lambda x: True)
    monkeypatch.setattr(products, "address", lambda x: x.ctypes.data)
    return library
