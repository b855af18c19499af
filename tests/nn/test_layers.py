from __future__ import annotations

import numpy as np
import pytest

from hpcml.arrays import Device, to_host
from hpcml.errors import ShapeError
from hpcml.nn import Dense, Flatten, Layer, Model, ReLU, Tanh
from hpcml.nn.layers import he_normal, zeros
from tests.nn.gradients import assert_slopes_equal, central_differences

RANDOM = np.random.default_rng(11)

LAYERS = {
    "dense": (lambda: [Dense(4)], (3,)),
    "dense that starts at zero": (lambda: [Dense(4, init=zeros)], (3,)),
    "relu": (lambda: [ReLU()], (5,)),
    "relu on images": (lambda: [ReLU()], (2, 3)),
    "tanh": (lambda: [Tanh()], (5,)),
    "flatten": (lambda: [Flatten()], (2, 3, 2)),
    "dense after dense": (lambda: [Dense(4), Dense(2)], (3,)),
    "all of them": (lambda: [Tanh(), Flatten(), Dense(5), ReLU(), Dense(4), Tanh(), Dense(3)], (2, 3)),
}


def device(xp):
    return Device() if xp is np else Device(0)


@pytest.fixture(params=LAYERS)
def model(request, xp):
    layers, shape = LAYERS[request.param]
    built = Model(layers(), shape, seed=5, dtype=np.float64, device=device(xp))
    built.arena.data[:] += xp.asarray(np.random.default_rng(6).standard_normal(built.arena.n)) / 2
    return built


def batch(xp, rows, shape):
    return xp.asarray(np.random.default_rng([7, rows]).standard_normal((rows, *shape)))


def test_the_gradient_is_that_of_finite_differences(model, xp):
    x = batch(xp, 6, model.shape)
    weights = batch(xp, 6, model.outputs)

    def value():
        return (model.forward(x) * weights).sum()

    expected = central_differences(value, model.arena.data)
    model.forward(x)
    model.backward(weights.copy())
    assert_slopes_equal(model.arena.grad[: model.arena.n], expected)


def test_the_slope_of_the_input_is_that_of_finite_differences(model, xp):
    x = batch(xp, 4, model.shape)
    weights = batch(xp, 4, model.outputs)
    expected = central_differences(lambda: (model.forward(x) * weights).sum(), x)
    model.forward(x)
    slope = weights.copy()
    for layer in reversed(model.layers):
        layer.needs_input_slope = True
        slope = layer.backward(slope)
    assert_slopes_equal(slope, expected)


def test_the_gradient_of_many_rows_is_the_sum_over_single_rows(model, xp):
    x, weights = batch(xp, 7, model.shape), batch(xp, 7, model.outputs)
    total = np.zeros(model.arena.n)
    for k in range(7):
        model.forward(x[k : k + 1])
        model.backward(weights[k : k + 1].copy())
        total += to_host(model.arena.grad[: model.arena.n])
    model.forward(x)
    model.backward(weights.copy())
    np.testing.assert_allclose(to_host(model.arena.grad[: model.arena.n]), total, rtol=1e-12, atol=1e-12)


def test_a_smaller_batch_after_a_larger_one_is_as_good_as_a_fresh_model(model, xp):
    x, weights = batch(xp, 3, model.shape), batch(xp, 3, model.outputs)

    def gradient():
        out = to_host(model.forward(x)).copy()
        model.backward(weights.copy())
        return out, to_host(model.arena.grad[: model.arena.n]).copy()

    out, grad = gradient()
    model.forward(batch(xp, 9, model.shape))
    model.backward(batch(xp, 9, model.outputs))
    again, grad_again = gradient()
    np.testing.assert_array_equal(again, out)
    np.testing.assert_array_equal(grad_again, grad)


def test_backward_overwrites_what_stood_in_the_gradient(model, xp):
    x, weights = batch(xp, 3, model.shape), batch(xp, 3, model.outputs)
    model.arena.grad.fill(np.nan)
    model.forward(x)
    model.backward(weights)
    assert np.isfinite(to_host(model.arena.grad[: model.arena.n])).all()
    assert np.isnan(to_host(model.arena.tail)).all()


def test_each_layer_is_numpys_formula(xp):
    x = batch(xp, 5, (3,))
    dense = Model([Dense(2)], (3,), seed=1, dtype=np.float64, device=device(xp))
    weight, bias = dense.arena.view("0.dense.weight").data, dense.arena.view("0.dense.bias").data
    bias += 3
    np.testing.assert_allclose(to_host(dense.forward(x)), to_host(x) @ to_host(weight) + to_host(bias), rtol=1e-13)
    for layer, oracle in ((ReLU(), lambda a: np.where(a > 0, a, 0)), (Tanh(), np.tanh)):
        np.testing.assert_allclose(to_host(layer.forward(x)), oracle(to_host(x)), rtol=1e-14)
    np.testing.assert_array_equal(to_host(Flatten().forward(x.reshape(5, 3, 1))), to_host(x))


def test_no_layer_hides_a_number_that_is_not_one():
    for layer in (ReLU(), Tanh()):
        assert np.isnan(layer.forward(np.array([[np.nan, 1.0]]))[0, 0])


def test_he_normal_has_the_variance_of_its_paper():
    first = he_normal(np.random.default_rng(0), (400, 300))
    assert abs(float(first.var()) * 400 / 2 - 1) < 0.02
    assert abs(float(first.mean())) < 0.002


def test_an_image_needs_a_flatten_before_a_dense():
    with pytest.raises(ShapeError, match=r"layer 1 \(Dense\): Dense takes rows of one axis, got rows of shape \(8, 8\)"):
        Model([ReLU(), Dense(3)], (8, 8))


def test_a_users_own_layer_is_as_good(xp):
    class Scale(Layer):
        """Multiply by one learned number."""

        def build(self, shape):
            return shape, {"factor": ((1,), lambda random, size: np.full(size, 2.0))}

        def forward(self, x):
            self._x = x
            return x * self.parameters["factor"].data

        def backward(self, slope):
            self.parameters["factor"].grad[:] = (slope * self._x).sum()
            return slope * self.parameters["factor"].data

    own = Model([Scale(), Dense(2), Scale()], (3,), dtype=np.float64, device=device(xp))
    x, weights = batch(xp, 4, (3,)), batch(xp, 4, (2,))
    expected = central_differences(lambda: (own.forward(x) * weights).sum(), own.arena.data)
    own.forward(x)
    own.backward(weights.copy())
    assert_slopes_equal(own.arena.grad[: own.arena.n], expected)
