"""Products of 16-bit operands: orders, leading dimensions, transposes and batches as cuBLAS reads them, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.arrays import fused, products
from hpcml.nn import BFLOAT16, FLOAT16
from hpcml.nn.workspace import Scratch
from tests.arrays.blas_in_columns import floats, install
from tests.arrays.host_blocks import compile_kernels
from tests.nn.test_precision import MODELS, gradients

SIZES = st.integers(1, 5)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def blocks():
    return compile_kernels()


@pytest.fixture
def device(blocks, monkeypatch):
    monkeypatch.setattr(fused, "launch", blocks)
    return install(monkeypatch)


def turned(x, turn):
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) if turn else x


@given(
    m=SIZES, k=SIZES, n=SIZES, lead=st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (3, 1, 2)]),
    turns=st.tuples(st.booleans(), st.booleans()), shared=st.sampled_from(["", "a", "b"]),
    layout=st.sampled_from(["whole", "columns", "heads"]),
)  # fmt: skip
def test_products_of_any_layout_are_numpys(m, k, n, lead, turns, shared, layout):
    a = turned(numbers(*(() if shared == "a" else lead), m, k).astype(np.float16), turns[0])
    b = turned(numbers(*(() if shared == "b" else lead), k, n, seed=1).astype(np.float16), turns[1])
    if layout == "heads" and lead:  # (..., m, heads, n) seen as (..., heads, m, n): matrices lie within each other's rows
        memory = np.full((*lead[:-1], m, lead[-1], n), np.nan, np.float32)
        out = memory.swapaxes(-2, -3)
    else:
        memory = np.full((*lead, m, n + 3), np.nan, np.float32)
        out = memory[..., 2 : 2 + n] if layout == "columns" else np.full((*lead, m, n), np.nan, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        library = install(patch)
        assert products.fits(a.astype(np.float32), b.astype(np.float32), out)
        products.product(a, b, out)
    assert sum(library.calls) == np.prod(lead, dtype=int)
    np.testing.assert_allclose(out, np.matmul(a.astype(np.float32), b.astype(np.float32)), rtol=1e-5, atol=1e-6)
    if layout == "columns":
        assert np.isnan(memory[..., :2]).all()
        assert np.isnan(memory[..., 2 + n :]).all() or not lead


def test_matrices_at_one_distance_are_one_call(monkeypatch):
    library = install(monkeypatch)
    a, b = numbers(2, 3, 4, 5).astype(np.float16), numbers(2, 3, 5, 6).astype(np.float16)
    products.product(a, b, np.zeros((2, 3, 4, 6), np.float32))
    products.product(a, b, np.zeros((2, 4, 3, 6), np.float32).swapaxes(1, 2))
    assert library.calls == [6, 3, 3]


def test_what_cublas_cannot_write_is_left_to_cupy(monkeypatch):
    assert not products.fits(numbers(2, 3), numbers(3, 4), numbers(2, 4))
    install(monkeypatch)
    assert products.fits(numbers(2, 3), numbers(3, 4), numbers(2, 4))
    for out in (numbers(4, 2).T, numbers(2, 8)[:, ::2], np.zeros((2, 4)), np.broadcast_to(numbers(4), (2, 4))):
        assert not products.fits(numbers(2, 3), numbers(3, 4), out)
    assert not products.fits(numbers(2, 0), numbers(0, 4), numbers(2, 4))
    assert not products.fits(numbers(1, 2, 3), numbers(5, 3, 4), numbers(5, 2, 4))


def test_the_kernel_rounds_as_the_host_does(device):
    bits = np.random.default_rng(2).integers(0, 1 << 32, 4000, dtype=np.uint32)
    bits[:8] = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF, 0x3F808000]
    x, out = bits.view(np.float32), np.zeros(4000, np.uint16)
    products.to_bfloat16(x, out)
    np.testing.assert_array_equal(floats(out), BFLOAT16.round(x, "x", Scratch()))


@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT16])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_by_cublas_are_those_of_rounded_float32(kind, precision, request):
    expected = gradients(kind, precision)
    library = request.getfixturevalue("device")
    found = gradients(kind, precision)
    assert library.calls
    for one, other in zip(found, expected, strict=True):  # the same numbers summed in another order may round to another neighbour
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=(4e-3 if precision is BFLOAT16 else 5e-4) * np.abs(other).max())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT16])
def test_a_gpus_products_are_those_of_rounded_float32(precision):
    from hpcml.arrays import Device, to_host

    place, scratch = Device(0).place, Scratch()
    a, b = numbers(2, 3, 64, 32), numbers(2, 3, 32, 48, seed=1)
    expected = precision.round(a, "a", Scratch()).copy() @ precision.round(b, "b", Scratch())
    for left, right in ((place(a), place(b)), (place(turned(a, True)), place(b).swapaxes(-1, -2).copy().swapaxes(-1, -2))):
        out = place(np.zeros((2, 64, 3, 48), np.float32)).swapaxes(1, 2)
        assert products.fits(left, right, out)
        precision.matmul(left, right, out, scratch)
        np.testing.assert_allclose(to_host(out), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_the_pool_of_a_gpu_is_constant_after_the_first_steps():
    import cupy

    from hpcml.arrays import Device
    from hpcml.nn import Attention, Dense, LayerNorm, Model

    device = Device(0)
    model = Model([Attention(8, 2, causal=True), LayerNorm(), Dense(3, positions=True)], (9, 8), seed=1)
    model.move(device)
    model.round(BFLOAT16)
    x, slope, held = device.place(numbers(6, 9, 8)), device.place(numbers(6, 9, 3)), []
    for step in range(6):
        model.context.train(seed=1, step=step, worker=0)
        model.forward(x)
        model.backward(slope.copy())
        held.append(cupy.get_default_memory_pool().total_bytes())
    assert len(set(held[2:])) == 1
