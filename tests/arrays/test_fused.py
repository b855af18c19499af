"""Fused steps of layers: a GPU's kernels give numpy's numbers, and layers that use them give the same gradients."""

from __future__ import annotations

import numpy as np
import pytest

from hpcml.arrays import fused
from hpcml.nn import GELU, Attention, Dense, Dropout, LayerNorm, Model, ReLU, softmax_cross_entropy
from tests.arrays.host_blocks import compile_kernels, signatures
from tests.arrays.nvrtc import nvrtc

SIZES = [(1, 1), (3, 5), (70, 33), (5, 130)]


@pytest.fixture(scope="module")
def blocks():
    return compile_kernels()


@pytest.fixture
def device(blocks, monkeypatch):
    """Layers and losses take fused steps, on numpy arrays."""
    monkeypatch.setattr(fused, "launch", blocks)
    monkeypatch.setattr(fused, "fits", lambda *arrays: all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("m", "d"), SIZES)
def test_softmax_and_its_slope(blocks, monkeypatch, m, d):
    monkeypatch.setattr(fused, "launch", blocks)
    s, slope, delta = numbers(m, d) * 20, numbers(m, d, seed=1), numbers(m, seed=2)
    s[0, 1:] = -np.inf
    top = s.max(axis=1)
    total, level, p, back = np.zeros(m, np.float32), np.zeros(m, np.float32), s.copy(), slope.copy()
    raised = s.copy()
    fused.softmax(raised, total, level)
    np.testing.assert_allclose(raised, np.exp(s - top[:, None]), rtol=1e-5)
    np.testing.assert_allclose(total, raised.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(level, top + np.log(total), rtol=1e-5, atol=1e-6)
    fused.softmax_slope(p, level, back, delta)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(back, (slope - delta[:, None]) * p, rtol=1e-6)


def test_a_row_that_sees_nothing_gives_zeros_and_no_number_stays_none(blocks, monkeypatch):
    monkeypatch.setattr(fused, "launch", blocks)
    s, total, level = np.full((2, 9), -np.inf, np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    s[1, 3] = np.nan
    fused.softmax(s, total, level)
    assert not s[0].any()
    assert np.isfinite([total[0], level[0]]).all()
    assert np.isnan([total[1], level[1]]).all()


def gradients(layers, shape, rows=6):
    model = Model(layers, shape, seed=1)
    model.arena.data[:] += numbers(model.arena.n, seed=3) / 4
    model.context.train(seed=1, step=2, worker=3)
    x = numbers(rows, *shape, seed=4)
    out = model.forward(x.copy()).copy()
    model.backward(numbers(*out.shape, seed=5))
    return out, model.arena.grad[: model.arena.n].copy()


CHAINS = {
    "layer norm": (lambda: [Dense(70), LayerNorm(), Dense(3)], (33,)),
    "gelu": (lambda: [Dense(33), GELU(), Dense(3)], (5,)),
    "dropout": (lambda: [Dense(33), Dropout(0.4), Dense(3)], (5,)),
    "relu": (lambda: [Dense(33), ReLU(), Dense(3)], (5,)),
    "attention": (lambda: [Attention(8, 2, causal=True), LayerNorm(), Dense(3, positions=True)], (9, 8)),
    "attention with dropout": (lambda: [Attention(8, 2, causal=True, dropout=0.4), LayerNorm(), Dense(3, positions=True)], (9, 8)),
    "attention with dropout over several tiles": (lambda: [Attention(4, 1, causal=True, dropout=0.4)], (70, 4)),
    "attention over several tiles": (lambda: [Attention(4, 1, causal=True)], (70, 4)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_layers_of_fused_steps_are_near_numpys(name, request):
    make, shape = CHAINS[name]
    rows = 2 if shape[0] == 70 else 6
    expected = gradients(make(), shape, rows)
    request.getfixturevalue("device")
    ran = set()
    launch = fused.launch
    request.getfixturevalue("monkeypatch").setattr(fused, "launch", lambda kernel, *rest: (ran.add(kernel), launch(kernel, *rest)))
    found = gradients(make(), shape, rows)
    assert ran
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_the_cross_entropy_is_numpys(device, monkeypatch, weighted, kind):
    x, y = numbers(7, 33) * 30, np.arange(7, dtype=kind) * 4
    weights = np.abs(numbers(7, seed=8)) if weighted else None
    value, slope = softmax_cross_entropy(x.copy(), y, weights=weights)
    monkeypatch.setattr(fused, "fits", lambda *arrays: False)
    expected, other = softmax_cross_entropy(x.copy(), y, weights=weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, other, rtol=1e-4, atol=1e-6)


def test_rows_of_equal_places_are_summed_in_order(blocks, monkeypatch):
    monkeypatch.setattr(fused, "launch", blocks)
    places, slope, grad = np.array([3, 0, 3, 5, 0, 3]), numbers(6, 70), np.zeros((7, 70), np.float32)
    expected = grad.copy()
    np.add.at(expected, places, slope)
    fused.sum_equal(places, slope, grad, np.empty((2, 6), np.int64))
    np.testing.assert_array_equal(grad, expected)


def test_a_class_that_is_none_costs_no_number(blocks, monkeypatch):
    monkeypatch.setattr(fused, "launch", blocks)
    losses = np.zeros(3, np.float32)
    fused.cross_entropy(numbers(3, 5), np.array([5, -1, 4]), np.ones(3, np.float32), losses)
    assert np.isnan(losses).tolist() == [True, True, False]


def test_numpy_arrays_and_other_dtypes_take_numpys_passes():
    assert not fused.fits(numbers(3))
    assert ReLU().kernels(numbers(3)) is None


@pytest.mark.parametrize("kernel", signatures())
def test_nvrtc_compiles_every_kernel(kernel):
    compiler = nvrtc()
    program = compiler.createProgram(fused.SOURCE, "fused.cu", (), ())
    compiler.compileProgram(program, ("--gpu-architecture=compute_80",))
    assert f".entry {kernel}(".encode() in compiler.getPTX(program)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHAINS)
def test_a_gpus_layers_are_near_numpys(name):
    from hpcml.arrays import Device, to_host

    make, shape = CHAINS[name]
    found = []
    for device in (Device(), Device(0)):
        model = Model(make(), shape, seed=1)
        model.move(device)
        model.context.train(seed=1, step=2, worker=3)
        out = model.forward(device.place(numbers(6, *shape, seed=4)))
        kept = to_host(out).copy()
        model.backward(device.place(numbers(*out.shape, seed=5)))
        found.append((kept, to_host(model.arena.grad)[: model.arena.n].copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5 * np.abs(one).max())
