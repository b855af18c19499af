"""Work given to a GPU once and launched again as a whole: CUDA graphs, and cuBLAS in a form that can be captured.

Capturing runs nothing: each kernel that would be launched is noted with its arguments as they are then, addresses and numbers alike.
CuPy's own calls of cuBLAS refuse while a stream is captured; the calls here are made straight to the library that CuPy has loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hpcml.arrays import products
from hpcml.arrays.device import address
from hpcml.errors import DeviceError

WORKSPACE = 32 << 20
"""Bytes that cuBLAS works in: what it takes itself on Hopper. It may not take memory while a stream is captured."""

Launch = Callable[[], None]
"""Gives all that was captured to the caller's current stream, and returns at once."""


class Recorder(Protocol):
    """What can capture the work given to it."""

    def record(self, work: Callable[[], object]) -> Launch:
        """Return what launches all that `work` gives to the device, nothing of which is done now.

        Raises:
            Exception: of any kind, where something cannot be captured; nothing was done then either.
        """


class DeviceRecorder:
    """Captures what CuPy gives to one GPU.

    Memory that is taken during a capture is held as long as what was captured may be launched: a kernel knows its address.
    """

    def __init__(self, index: int) -> None:
        """Make a stream to capture on, since the default one cannot be captured."""
        import cupy

        self._cuda = cupy.cuda
        self._device = cupy.cuda.Device(index)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)

    def record(self, work: Callable[[], object]) -> Launch:
        """Return what launches all that `work` gives to the current stream of this device; see Recorder."""
        held: list[Any] = []
        take = self._cuda.get_allocator()

        def keep(nbytes: int) -> Any:
            held.append(take(nbytes))
            return held[-1]

        with self._device, self._stream, self._cuda.using_allocator(keep):
            self._stream.begin_capture()
            try:
                work()
            except BaseException:
                _give_up(self._stream)
                raise
            graph = self._stream.end_capture()

        return _Captured(graph, held)


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph, and the memory that it was captured with."""

    graph: Any
    held: list[Any]

    def __call__(self) -> None:
        """Launch the graph on the caller's current stream."""
        self.graph.launch()


def _give_up(stream: Any) -> None:
    """End a capture whose work broke off; a stream left capturing would refuse all that follows."""
    with suppress(Exception):  # that the capture is invalid, its work has said already
        stream.end_capture()


class StraightProducts:
    """cuBLAS by its C interface, with a handle and a workspace of its own.

    Args:
        handle: of cuBLAS.
        library: it, as ctypes loads it.
        stream: returns the address of the caller's current stream.
        workspace: memory of the device, (WORKSPACE,) bytes.
    """

    def __init__(self, handle: int, library: Any, stream: Callable[[], int], workspace: Any) -> None:
        self._handle, self._library, self._current, self._workspace = handle, library, stream, workspace
        self._stream: int | None = None
        pointer, number, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        matrix, shape = [pointer, number, number], [number] * 5
        apart = [*matrix, long]
        library.cublasSetStream_v2.argtypes = [pointer, pointer]
        library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
        library.cublasGemmEx.argtypes = [pointer, *shape, pointer, *matrix, *matrix, pointer, *matrix, number, number]
        library.cublasGemmStridedBatchedEx.argtypes = [pointer, *shape, pointer, *apart, *apart, pointer, *apart, number, number, number]

    def multiply(
        self, shape: tuple[int, int, int], left: products.Operand, right: products.Operand, out: products.Target, count: int
    ) -> None:
        """Call cuBLAS on the current stream for `count` products; see `products.Multiply`."""
        self._follow(self._current())
        how = (products.COMPUTE_FLOAT32, products.DEFAULT_ALGORITHM)
        one, zero = products.ONE.ctypes.data, products.ZERO.ctypes.data
        (turn, *first), (other, *second) = left, right
        if count == 1:
            arguments = (turn, other, *shape, one, *first[:3], *second[:3], zero, *out[:3], *how)
            self._require(self._library.cublasGemmEx(self._handle, *arguments), "cublasGemmEx")
        else:
            arguments = (turn, other, *shape, one, *first, *second, zero, *out, count, *how)
            self._require(self._library.cublasGemmStridedBatchedEx(self._handle, *arguments), "cublasGemmStridedBatchedEx")

    def _follow(self, stream: int) -> None:
        """Let the next calls go to a stream; a change takes the workspace away from the handle, so it is given again."""
        if stream != self._stream:
            self._require(self._library.cublasSetStream_v2(self._handle, stream), "cublasSetStream")
            memory = address(self._workspace), self._workspace.nbytes
            self._require(self._library.cublasSetWorkspace_v2(self._handle, *memory), "cublasSetWorkspace")
            self._stream = stream

    @staticmethod
    def _require(status: int, name: str) -> None:
        if status:
            text = f"{name} gave the status {status}, expected 0; look it up under cublasStatus_t in the documentation of cuBLAS"
            raise DeviceError(f"{text}, and set train.graph = false to go without")


def straight_products(index: int) -> StraightProducts:
    """Return products by the cuBLAS that CuPy has loaded, on one GPU."""
    import cupy
    from cupy.cuda import cublas

    with cupy.cuda.Device(index):
        handle = cublas.create()
        library = ctypes.CDLL(f"libcublas.so.{cublas.getVersion(handle) // 10000}")
        workspace = cupy.empty(WORKSPACE, np.uint8)
    return StraightProducts(handle, library, lambda: int(cupy.cuda.get_current_stream().ptr), workspace)
