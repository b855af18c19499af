"""What is captured on a device: the order of CuPy's calls, memory that is held, and cuBLAS by its C interface."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from ctypes import CFUNCTYPE, c_int, c_longlong, c_size_t, c_void_p
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hpcml.arrays import products
from hpcml.arrays.graph import DeviceRecorder, StraightProducts
from hpcml.errors import DeviceError
from hpcml.nn import Attention, Dense, Model
from tests.arrays.blas_in_columns import install

MATRIX, SHAPE = (c_void_p, c_int, c_int), (c_int,) * 5
APART = (*MATRIX, c_longlong)


class Library:
    """cuBLAS as C sees it, for calls with the types of its documentation; `told` is what beside products was asked."""

    def __init__(self, columns, status=0):
        self.told = []

        def answer(name):
            def run(handle, *arguments):
                self.told.append((name, *arguments))
                return status

            return run

        def multiply(name):
            def run(*arguments):
                getattr(columns, name)(*arguments)
                return status

            return run

        one = CFUNCTYPE(c_int, c_void_p, *SHAPE, c_void_p, *MATRIX, *MATRIX, c_void_p, *MATRIX, c_int, c_int)
        many = CFUNCTYPE(c_int, c_void_p, *SHAPE, c_void_p, *APART, *APART, c_void_p, *APART, c_int, c_int, c_int)
        self.cublasGemmEx, self.cublasGemmStridedBatchedEx = one(multiply("gemmEx")), many(multiply("gemmStridedBatchedEx"))
        self.cublasSetStream_v2 = CFUNCTYPE(c_int, c_void_p, c_void_p)(answer("stream"))
        self.cublasSetWorkspace_v2 = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)(answer("workspace"))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_products_by_the_c_interface_are_numpys(monkeypatch, kind):
    columns = install(monkeypatch)
    straight = StraightProducts(7, Library(columns), lambda: 3, np.zeros(8, np.uint8))
    for a, b in ((numbers(3, 4), numbers(4, 5)), (numbers(2, 3, 4), numbers(2, 4, 5)), (numbers(3, 4), numbers(5, 4).T)):
        left, right = a.astype(kind), b.astype(kind, order="K")
        out = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
        products.product(left, right, out, straight.multiply)
        np.testing.assert_allclose(out, left.astype(np.float32) @ right.astype(np.float32), rtol=1e-5, atol=1e-6)
    assert columns.calls == [1, 2, 1]


def test_a_new_stream_is_given_its_workspace_again_since_cublas_takes_it_away(monkeypatch):
    stream, workspace = [3], np.zeros(64, np.uint8)
    library = Library(install(monkeypatch))
    straight = StraightProducts(7, library, lambda: stream[0], workspace)
    for number in (3, 3, 5, 3):
        stream[0] = number
        products.product(numbers(2, 3), numbers(3, 4), np.zeros((2, 4), np.float32), straight.multiply)
    given = ("workspace", workspace.ctypes.data, 64)
    assert library.told == [("stream", 3), given, ("stream", 5), given, ("stream", 3), given]


def test_a_status_of_cublas_is_an_error_by_name(monkeypatch):
    straight = StraightProducts(7, Library(install(monkeypatch), status=13), lambda: 3, np.zeros(8, np.uint8))
    with pytest.raises(DeviceError, match=r"cublasSetStream gave the status 13, expected 0.*train.graph = false"):
        products.product(numbers(2, 3), numbers(3, 4), np.zeros((2, 4), np.float32), straight.multiply)


def test_layers_of_a_model_multiply_so_in_float32_too(monkeypatch):
    """Views of attention's heads are laid out in one piece first, as cuBLAS wants them."""

    def gradient(multiply):
        model = Model([Attention(8, 2, causal=True), Dense(3, positions=True)], (9, 8), seed=1)
        model.context.multiply = multiply
        model.context.train(seed=1, step=2, worker=3)
        model.forward(numbers(4, 9, 8))
        model.backward(numbers(4, 9, 3, seed=5))
        return model.arena.grad

    expected = gradient(None)
    columns = install(monkeypatch)
    found = gradient(StraightProducts(7, Library(columns), lambda: 3, np.zeros(8, np.uint8)).multiply)
    assert len(columns.calls) > 10
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Cupy:
    """What a recorder uses of CuPy; `told` is what it was asked, in order."""

    def __init__(self, monkeypatch):
        self.told, self.stream, self.allocator = [], "default", lambda nbytes: f"{nbytes} bytes"
        package, cuda = ModuleType("cupy"), SimpleNamespace()
        cuda.Device = lambda index: (self.told.append(f"device {index}"), nullcontext())[1]
        cuda.Stream = lambda non_blocking: self
        cuda.get_allocator = lambda: self.allocator
        cuda.using_allocator = self._allocating
        package.cuda = cuda
        monkeypatch.setitem(sys.modules, "cupy", package)

    @contextmanager
    def _allocating(self, allocator):
        before, self.allocator = self.allocator, allocator
        try:
            yield
        finally:
            self.allocator = before

    def __enter__(self):
        self.stream = "captured"

    def __exit__(self, *_):
        self.stream = "default"

    def begin_capture(self):
        self.told.append("begin")

    def end_capture(self):
        self.told.append("end")
        return SimpleNamespace(launch=lambda: self.told.append(f"launch on {self.stream}"))


def test_work_is_captured_on_a_stream_of_its_own_and_launched_on_the_callers(monkeypatch):
    cupy = Cupy(monkeypatch)
    launch = DeviceRecorder(2).record(lambda: cupy.told.append(f"{cupy.allocator(9)} on {cupy.stream}"))
    launch()
    assert cupy.told == ["device 2", "begin", "9 bytes on captured", "end", "launch on default"]
    assert launch.held == ["9 bytes"]
    assert cupy.allocator(4) == "4 bytes"
    assert launch.held == ["9 bytes"]


def test_a_capture_that_breaks_off_is_ended(monkeypatch):
    cupy = Cupy(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        DeviceRecorder(0).record(lambda: 1 // 0)
    assert cupy.told[-2:] == ["begin", "end"]
    assert cupy.stream == "default"


@pytest.mark.gpu
def test_a_gpu_launches_what_was_captured_and_reads_memory_as_it_is_then():
    import cupy

    x, out = cupy.zeros(5, np.float32), cupy.zeros(5, np.float32)
    launch = DeviceRecorder(0).record(lambda: cupy.add(x * 2, 1, out=out))
    assert not out.any()
    for value in (1.0, 4.0):
        x.fill(value)
        launch()
        np.testing.assert_array_equal(out.get(), np.full(5, 2 * value + 1))


@pytest.mark.gpu
def test_a_gpus_products_may_be_captured():
    import cupy

    from hpcml.arrays.graph import straight_products

    a, b, out = cupy.asarray(numbers(2, 30, 40)), cupy.asarray(numbers(2, 40, 50, seed=1)), cupy.zeros((2, 30, 50), np.float32)
    straight = straight_products(0)
    products.product(a, b, out, straight.multiply)
    eager = out.get()
    np.testing.assert_allclose(eager, a.get() @ b.get(), rtol=1e-4, atol=1e-4)
    launch = DeviceRecorder(0).record(lambda: products.product(a, b, out, straight.multiply))
    out.fill(0)
    launch()
    np.testing.assert_array_equal(out.get(), eager)
